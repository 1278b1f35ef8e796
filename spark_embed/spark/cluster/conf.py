"""Spark's settings -> what is wrong with them for this job, and what to set; asks no session.

Spark would say nothing of most of it: it waits, loads a model twice, or lets a GPU idle.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from spark_embed.errors import ConfigError, SparkEmbedError

MASTER = "spark.master"
TASK_CPUS = "spark.task.cpus"
TASK_GPUS = "spark.task.resource.gpu.amount"
EXECUTOR_CORES = "spark.executor.cores"
EXECUTOR_GPUS = "spark.executor.resource.gpu.amount"
_MEMORY = "spark.executor.pyspark.memory"
_SPECULATION = "spark.speculation"
_DYNAMIC = "spark.dynamicAllocation.enabled"
_IDLE = "spark.dynamicAllocation.executorIdleTimeout"
_MAX_EXECUTORS = "spark.dynamicAllocation.maxExecutors"

NAMES = (
    MASTER, TASK_CPUS, TASK_GPUS, EXECUTOR_CORES, EXECUTOR_GPUS, _MEMORY, _SPECULATION, _DYNAMIC, _IDLE,
    _MAX_EXECUTORS,
)  # fmt: skip
"""The settings that are looked at."""

# A worker's address space below which a run on CPUs fails: with 4 GiB, importing torch 2.15 does.
_LEAST_MIB = 5120
_MIB = {"b": 1 / (1 << 20), "k": 1 / 1024, "m": 1, "g": 1024, "t": 1 << 20, "p": 1 << 30}
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_UNLIMITED = 2**31 - 1  # Spark's default of maxExecutors
_SHORT_IDLE_S = 300  # the time of a wave (--wave_s)

_ONE_TASK = "set it to 1, and spark.task.cpus to the cores of an executor for each of its GPUs"


@dataclass(frozen=True)
class Finding:
    """What is wrong, in one line; with `error`, a run cannot go on with it."""

    text: str
    error: type[SparkEmbedError] | None = None


def check_settings(conf: Mapping[str, str], *, runs: bool = False) -> list[Finding]:
    """Return what is wrong by the settings alone, before a context starts or in one that runs.

    A session that runs may keep some of its settings to itself.
    """
    return [
        *_check_gpu_settings(conf, runs=runs),
        *_check_memory(conf),
        *([] if _is_local(conf) else _check_copies(conf)),
    ]


def check_local(conf: Mapping[str, str], n_slots: int, n_gpus: int) -> list[Finding]:
    """Return what is wrong with so many tasks at once on this machine."""
    if not n_gpus or n_slots < 2:
        return []
    return [
        Finding(
            f"{n_slots} tasks at once share a GPU of this machine, and each loads a model of its own: with "
            f"spark-submit --conf {TASK_CPUS}={n_slots * number(conf, TASK_CPUS, 1):.0f} one task has it, "
            "and all cores to decode"
        )
    ]


def planned_slots(conf: Mapping[str, str], n_slots: int) -> int:
    """Return for how many tasks at once to plan, where `n_slots` can run now.

    Dynamic allocation brings executors as there are tasks for them: a run planned for the few of its
    beginning would never ask for more.
    """
    n_executors = number(conf, _MAX_EXECUTORS, 0) if _is_true(conf, _DYNAMIC) else 0
    per_executor = number(conf, EXECUTOR_CORES, 1) // number(conf, TASK_CPUS, 1)
    if gpus := number(conf, EXECUTOR_GPUS, 0):
        per_executor = min(per_executor, gpus // (number(conf, TASK_GPUS, 0) or gpus))
    return max(n_slots, int(n_executors * max(1, per_executor)) if n_executors < _UNLIMITED else 0)


def _check_gpu_settings(conf: Mapping[str, str], *, runs: bool) -> Iterator[Finding]:
    if not (amount := number(conf, TASK_GPUS, 0)):
        return
    told = f"{TASK_GPUS} {conf[TASK_GPUS]}"
    if _is_local(conf):
        yield Finding(
            f"{told} with master {conf[MASTER]}: in local mode Spark has no GPUs to give, and would wait for "
            f"ever without a word; leave it and {EXECUTOR_GPUS} out: the job finds the GPU here by itself",
            ConfigError,
        )
    elif not runs and not number(conf, EXECUTOR_GPUS, 0):
        yield Finding(
            f"{told} without {EXECUTOR_GPUS}: Spark does not start so; set {EXECUTOR_GPUS} to the GPUs of "
            "an executor, or leave both out",
            ConfigError,
        )
    elif amount < 1:
        yield Finding(
            f"{told}: {1 / amount:.0f} tasks share a GPU, and each loads a model of its own; {_ONE_TASK}"
        )
    elif amount > 1:
        yield Finding(f"{told}: a task's model runs on one GPU, the others idle; {_ONE_TASK}")


def check_gpu_tasks(conf: Mapping[str, str], cores: int) -> Iterator[Finding]:
    """Look at an executor whose GPUs Spark knows: one task for each GPU should own its part of the cores."""
    gpus, cpus = int(number(conf, EXECUTOR_GPUS, 1)), int(number(conf, TASK_CPUS, 1))
    n_tasks, wanted = cores // cpus, max(1, cores // gpus)
    told = f"executors of {cores} cores and {gpus} GPUs, {TASK_CPUS} {cpus}: "
    if TASK_GPUS not in conf:
        if n_tasks > 1:
            yield Finding(
                f"{told}{n_tasks} tasks at once, and Spark tells none of them which GPU is its own; set "
                f"{TASK_GPUS} 1 and {TASK_CPUS} {wanted}"
            )
    elif number(conf, TASK_GPUS, 0) == 1 and n_tasks < gpus:
        yield Finding(
            f"{told}room for {n_tasks} tasks, so that {gpus - n_tasks} GPUs idle; set {TASK_CPUS} {wanted}"
        )
    elif number(conf, TASK_GPUS, 0) == 1 and cpus < wanted:
        yield Finding(
            f"{told}{cores - cpus * gpus} cores idle while the GPUs wait for images to be decoded; set "
            f"{TASK_CPUS} {wanted}"
        )


def _check_memory(conf: Mapping[str, str]) -> Iterator[Finding]:
    if not (memory := conf.get(_MEMORY)):
        return
    found = re.fullmatch(r"(\d+)\s*([bkmgtp]?)b?", memory.strip().lower())
    workers = number(conf, EXECUTOR_CORES, 1)  # Spark gives each its part, however many run
    mebibytes = int(found[1]) * _MIB[found[2] or "m"] / workers if found else _LEAST_MIB
    told = f"{_MEMORY} {memory} is a limit on the address space of a worker"
    if workers > 1:
        told += f", {mebibytes:,.0f} MiB for each of {workers:.0f} cores"
    cure = "leave it out, and give the workers their memory with spark.executor.memoryOverhead"
    if mebibytes < _LEAST_MIB:
        yield Finding(f"{told}; torch needs {_LEAST_MIB // 1024} GiB of that: {cure}", ConfigError)
    else:
        yield Finding(f"{told}, of which models and GPUs take far more than of memory: {cure}")


def _check_copies(conf: Mapping[str, str]) -> Iterator[Finding]:
    if _is_true(conf, _SPECULATION):
        yield Finding(
            f"{_SPECULATION} true: a copy of a slow task runs the model over the same images; no row comes "
            "twice, but set it to false"
        )
    if not _is_true(conf, _DYNAMIC):
        return
    idle = conf.get(_IDLE, "60s")
    cures = []
    if _seconds(idle) < _SHORT_IDLE_S:
        cures.append(f"{_IDLE} {_SHORT_IDLE_S}s")
    if number(conf, _MAX_EXECUTORS, _UNLIMITED) >= _UNLIMITED:
        cures.append(f"{_MAX_EXECUTORS}, by which tasks are cut")
    if cures:
        yield Finding(
            f"{_DYNAMIC} true: executors that idle for {idle} are removed, and new ones load the model anew; "
            f"set {' and '.join(cures)}; or set it to false, and spark.executor.instances"
        )


def _seconds(duration: str) -> float:
    """Return the seconds of a duration as Spark writes it; of one that it will refuse, none."""
    found = re.fullmatch(r"(\d+)\s*([a-z]*)", duration.strip().lower())
    return int(found[1]) * _SECONDS.get(found[2] or "s", 0) if found else 0


def _is_local(conf: Mapping[str, str]) -> bool:
    """Say whether tasks run in the driver's JVM, where speculation and dynamic allocation do nothing."""
    return conf.get(MASTER, "").startswith("local") and not conf[MASTER].startswith("local-cluster")


def _is_true(conf: Mapping[str, str], name: str) -> bool:
    return conf.get(name, "").strip().lower() == "true"


def number(conf: Mapping[str, str], name: str, default: float) -> float:
    """Return a setting's number; the default for one that is not set, or is none, which Spark will refuse."""
    try:
        return float(conf[name]) or default
    except (KeyError, ValueError):
        return default
