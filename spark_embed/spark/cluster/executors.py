"""What executors are -> what is wrong with them for this job, and what to set; asks no session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from spark_embed.errors import ConfigError, ModelError
from spark_embed.spark.cluster.conf import (
    EXECUTOR_CORES,
    EXECUTOR_GPUS,
    TASK_CPUS,
    TASK_GPUS,
    Finding,
    check_gpu_tasks,
    number,
)

OWN_PACKAGE = "spark-embed"

_TO_CHOOSE = "spark.pyspark.python or PYSPARK_PYTHON"


@dataclass(frozen=True)
class Executor:
    """What a task has seen of the executor that it ran on.

    Attributes:
        name: its host and its worker daemon.
        versions: of packages that a run needs, by distribution; None for one that is not there, empty for
            one that came without its metadata.
        n_gpus: devices of the machine, or of the container.
        addresses: of the GPUs that Spark gave the task.
        lacks: folders of the driver's that are not there.
        python: its path and version.
        broken: why a package that is there cannot be imported, by distribution.
    """

    host: str
    name: str
    versions: Mapping[str, str | None]
    n_gpus: int = 0
    addresses: Sequence[str] = ()
    lacks: Sequence[str] = ()
    python: str = ""
    broken: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_gpu(self) -> bool:
        """Whether it has one, known to Spark or not."""
        return bool(self.n_gpus or self.addresses)


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


def _check_unknown_gpus(conf: Mapping[str, str], seen: Sequence[Executor], cores: int) -> Iterator[Finding]:
    n_tasks = max(1, cores // int(number(conf, TASK_CPUS, 1)))
    n_executors = Counter(executor.host for executor in seen if executor.n_gpus)
    shared = [host for host, number in n_executors.items() if number * n_tasks > 1]
    if shared:
        n_gpus = next(executor.n_gpus for executor in seen if executor.host == shared[0])
        yield Finding(
            f"{n_executors[shared[0]] * n_tasks} tasks at once share a GPU on {shown_hosts(shared)}, and "
            f"each loads a model of its own: Spark knows nothing of the GPUs there; set {EXECUTOR_GPUS} "
            f"{n_gpus}, {TASK_GPUS} 1 and {TASK_CPUS} {max(1, cores // n_gpus)} (conf/gpu.conf)"
        )


def _check_packages(here: Executor, seen: Sequence[Executor]) -> Iterator[Finding]:
    for package, own in here.versions.items():
        found: dict[str | None, list[str]] = {}
        for executor in seen:
            found.setdefault(executor.versions[package], []).append(executor.host)
        if lacking := found.pop(None, None):
            yield Finding(
                f"the Python of the executors on {_where(seen, lacking)} has no {package}: install it there, "
                f"or set {_TO_CHOOSE} to one that has it",
                ConfigError,
            )
        if broken := [executor for executor in seen if package in executor.broken]:
            yield Finding(
                f"the Python of the executors on {_where(seen, [executor.host for executor in broken])} has "
                f"{package}, but cannot import it: {broken[0].broken[package]}; mend it there, or set "
                f"{_TO_CHOOSE} to one that can",
                ConfigError,
            )
        mine = own if package == OWN_PACKAGE else None  # the driver runs no model
        hosts = {version: shown_hosts(names) for version, names in found.items() if version}
        if len({mine, *hosts} - {None, ""}) > 1:
            versions = ", ".join(f"{version} on {names}" for version, names in hosts.items())
            told = f"{package} is {versions}" + (f", and {mine} here" if mine else "")
            if package == OWN_PACKAGE:
                yield Finding(f"{told}: install the same everywhere, or send it with --py-files", ConfigError)
            else:
                yield Finding(f"{told}: vectors may differ; install the same everywhere")


def _check_mixture(seen: Sequence[Executor], *, require_gpu: bool) -> Iterator[Finding]:
    without = [executor.host for executor in seen if not executor.has_gpu]
    if not without or len(without) == len(seen):
        return
    told = f"{len(without)} of {len(seen)} executors have no GPU ({shown_hosts(without)})"
    cure = f"for executors with a GPU alone set {EXECUTOR_GPUS} 1 and {TASK_GPUS} 1 (conf/gpu.conf)"
    if require_gpu:
        yield Finding(f"--require_gpu true: {told}; {cure}", ModelError)
    else:
        yield Finding(f"{told}: all are used, these with the model on the CPU; {cure}")


def _where(seen: Sequence[Executor], hosts: Sequence[str]) -> str:
    """Return the hosts, and the Python of the first of them."""
    python = next(executor.python for executor in seen if executor.host == hosts[0])
    return shown_hosts(hosts) + (f" ({python})" if python else "")


def shown_hosts(hosts: Iterable[str]) -> str:
    """Return the names of a few, and how many more there are."""
    names = sorted(set(hosts))
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
