"""Looks at a session's settings and asks its executors what they are, before anything slow is begun there."""

from __future__ import annotations

import glob
import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from pyspark import TaskContext
from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.errors import ConfigError, ModelError
from spark_embed.spark.cluster import (
    EXECUTOR_CORES,
    EXECUTOR_GPUS,
    NAMES,
    TASK_CPUS,
    TASK_GPUS,
    Finding,
    check_gpu_tasks,
    check_local,
    check_settings,
    number,
)
from spark_embed.spark.context import is_local
from spark_embed.spark.settings import count_slots, setting
from spark_embed.spark.tasks import run_tasks

logger = logging.getLogger(__name__)

_OWN_PACKAGE = "spark-embed"

# By distribution, the modules without which a worker embeds nothing.
_MODULES = {
    _OWN_PACKAGE: "spark_embed",
    "torch": "torch",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "timm": "timm",
    "safetensors": "safetensors",
    "pillow": "PIL",
    "simplejpeg": "simplejpeg",
    "aiohttp": "aiohttp",
}

_PATIENCE_S = 45


@dataclass(frozen=True)
class Executor:
    """What a task has seen of the executor that it ran on.

    Attributes:
        name: its host and its worker daemon.
        versions: of packages that a model needs, by distribution; None for one that is not there, empty for
            one that came without its metadata.
        n_gpus: devices of the machine, or of the container.
        addresses: of the GPUs that Spark gave the task.
        has_model: whether the model's folder is there, if it is one of the driver's.
    """

    host: str
    name: str
    versions: Mapping[str, str | None]
    n_gpus: int = 0
    addresses: Sequence[str] = ()
    has_model: bool = True

    @property
    def has_gpu(self) -> bool:
        """Whether it has one, known to Spark or not."""
        return bool(self.n_gpus or self.addresses)


def check_cluster(spark: SparkSession, config: Config) -> None:
    """Say what is wrong with a session for this job; of executors elsewhere each is asked by a task.

    Raises:
        ConfigError: a run cannot work so.
        ModelError: an executor lacks the model, or with --require_gpu a GPU.
    """
    conf = read_settings(spark)
    tell(check_settings(conf))
    n_slots, task_cpus = count_slots(spark)
    if is_local(spark):
        tell(check_local(conf, n_slots, _n_gpus()))
        return
    folder = os.path.abspath(os.path.expanduser(config.model_directory or ""))
    seen = ask_executors(spark, folder if config.model_directory and os.path.isdir(folder) else None)
    n_slots, task_cpus = count_slots(spark)
    if lacking := [executor.host for executor in seen if not executor.has_model]:
        raise ModelError(
            f"--model_directory {folder}: there is no such folder on {_shown(lacking)}, though it is here: "
            "copy it to every machine, or name one in S3 or a hub id"
        )
    tell(check_executors(conf, look(), seen, n_slots * task_cpus, require_gpu=config.require_gpu))


def tell(findings: Iterable[Finding]) -> None:
    """Log what is wrong, or raise the first that no run can go on with."""
    for finding in sorted(findings, key=lambda one: one.error is None):
        if finding.error:
            raise finding.error(finding.text)
        logger.warning("%s", finding.text)


def read_settings(spark: SparkSession) -> dict[str, str]:
    """Return those settings of `NAMES` that are set."""
    values: Mapping[str, str | None] = {name: setting(spark, name) for name in NAMES}
    return {name: value for name, value in values.items() if value is not None}


def check_executors(
    conf: Mapping[str, str], here: Executor, seen: Sequence[Executor], n_cores: int, *, require_gpu: bool
) -> list[Finding]:
    """Return what is wrong by what tasks have seen.

    Args:
        conf: the settings, those of `NAMES` that are set.
        here: the driver, as a task would see it.
        seen: one executor each.
        n_cores: of all executors.
        require_gpu: --require_gpu.
    """
    cores = int(number(conf, EXECUTOR_CORES, n_cores // max(len(seen), 1)))
    if number(conf, EXECUTOR_GPUS, 0):
        shared = check_gpu_tasks(conf, cores)
    else:
        shared = _check_unknown_gpus(conf, seen, cores)
    return [*_check_packages(here, seen), *_check_mixture(seen, require_gpu=require_gpu), *shared]


def ask_executors(spark: SparkSession, folder: str | None = None) -> list[Executor]:
    """Return what each executor is that is there, and whether it has the folder; waits for the first.

    Raises:
        ConfigError: their Python cannot run this package.
    """
    n_slots, _ = count_slots(spark)
    with _told_if_none_comes():
        answers = run_tasks(spark, _look, [folder] * n_slots)
    n_more, _ = count_slots(spark)
    if n_more > n_slots:  # the others have come meanwhile
        answers += run_tasks(spark, _look, [folder] * n_more)
    found = {answer["name"]: Executor(**answer) for answer in answers}
    return [found[name] for name in sorted(found)]


def look(folder: str | None = None) -> Executor:
    """Return what this process sees where it runs: on an executor, in a task, or on the driver."""
    context = TaskContext.get()
    gpu = context.resources().get("gpu") if context else None
    host = socket.gethostname()
    return Executor(
        host,
        f"{host} {os.getppid()}",  # the workers of an executor have one parent
        {package: _version(package, module) for package, module in _MODULES.items()},
        _n_gpus(),
        tuple(gpu.addresses) if gpu else (),
        folder is None or os.path.isdir(folder),
    )


def _look(folder: str | None) -> dict[str, Any]:
    return asdict(look(folder))


def _version(package: str, module: str) -> str | None:
    """Return a package's version, without importing it: that takes seconds."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:  # a folder of that name is no package
        return None
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _n_gpus() -> int:
    return len(glob.glob("/dev/nvidia[0-9]*"))


def _check_unknown_gpus(conf: Mapping[str, str], seen: Sequence[Executor], cores: int) -> Iterator[Finding]:
    n_tasks = max(1, cores // int(number(conf, TASK_CPUS, 1)))
    n_executors = Counter(executor.host for executor in seen if executor.n_gpus)
    shared = [host for host, number in n_executors.items() if number * n_tasks > 1]
    if shared:
        n_gpus = next(executor.n_gpus for executor in seen if executor.host == shared[0])
        yield Finding(
            f"{n_executors[shared[0]] * n_tasks} tasks at once share a GPU on {_shown(shared)}, and each "
            f"loads a model of its own: Spark knows nothing of the GPUs there; set {EXECUTOR_GPUS} "
            f"{n_gpus}, {TASK_GPUS} 1 and {TASK_CPUS} {max(1, cores // n_gpus)} (conf/gpu.conf)"
        )


def _check_packages(here: Executor, seen: Sequence[Executor]) -> Iterator[Finding]:
    for package, own in here.versions.items():
        found: dict[str | None, list[str]] = {}
        for executor in seen:
            found.setdefault(executor.versions[package], []).append(executor.host)
        if lacking := found.pop(None, None):
            yield Finding(
                f"the Python of the executors on {_shown(lacking)} has no {package}: install it there, or "
                "set PYSPARK_PYTHON to one that has it",
                ConfigError,
            )
        hosts = {version: _shown(names) for version, names in found.items() if version}
        if len({own, *hosts} - {None, ""}) > 1:
            versions = ", ".join(f"{version} on {names}" for version, names in hosts.items())
            told = f"{package} is {versions}" + (f", and {own} here" if own else "")
            if package == _OWN_PACKAGE:
                yield Finding(f"{told}: install the same everywhere, or send it with --py-files", ConfigError)
            else:
                yield Finding(f"{told}: vectors may differ; install the same everywhere")


def _check_mixture(seen: Sequence[Executor], *, require_gpu: bool) -> Iterator[Finding]:
    without = [executor.host for executor in seen if not executor.has_gpu]
    if not without or len(without) == len(seen):
        return
    told = f"{len(without)} of {len(seen)} executors have no GPU ({_shown(without)})"
    cure = f"for executors with a GPU alone set {EXECUTOR_GPUS} 1 and {TASK_GPUS} 1 (conf/gpu.conf)"
    if require_gpu:
        yield Finding(f"--require_gpu true: {told}; {cure}", ModelError)
    else:
        yield Finding(f"{told}: all are used, these with the model on the CPU; {cure}")


def _shown(hosts: Iterable[str]) -> str:
    names = sorted(set(hosts))
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


@contextmanager
def _told_if_none_comes() -> Iterator[None]:
    """Say why nothing happens, if the first executor takes long: it may never come."""
    text = (
        "no executor has run a task for %d s: the cluster may have none that is as large as asked for "
        "(spark.executor.cores, spark.executor.memory, spark.executor.resource.gpu.amount)"
    )
    timer = threading.Timer(_PATIENCE_S, logger.warning, (text, _PATIENCE_S))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
