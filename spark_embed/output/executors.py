"""What each executor of a run did, and how even its tasks were; knows no Spark and no wave's data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce

MAX_NAMED = 100
_OTHERS = "others"
_SHOWN_NAMES = 3


@dataclass(frozen=True)
class Executor:
    """What one executor did, or several together.

    Attributes:
        n_tasks: tasks that had at least one row.
        n_rows: rows of these, good and bad.
        n_model_loads: how often one of its worker processes had to load the model.
        devices: that it ran on: "cuda:0", "cpu".
        busy_s: seconds of its tasks, added up: of tasks at once each.
    """

    n_tasks: int
    n_rows: int
    n_model_loads: int
    devices: tuple[str, ...]
    busy_s: float

    def __add__(self, other: Executor) -> Executor:
        return Executor(
            self.n_tasks + other.n_tasks,
            self.n_rows + other.n_rows,
            self.n_model_loads + other.n_model_loads,
            tuple(sorted({*self.devices, *other.devices})),
            self.busy_s + other.busy_s,
        )

    @property
    def device_kinds(self) -> tuple[str, ...]:
        """Its devices without their numbers."""
        return tuple(sorted({device.partition(":")[0] for device in self.devices}))


@dataclass(frozen=True)
class Skew:
    """The wave whose longest task took most longer than the median one; without loading the model."""

    wave: str
    longest_task_s: float
    median_task_s: float


def add_executors(parts: Iterable[tuple[str, Executor]]) -> dict[str, Executor]:
    """Return what each did in all, those with the most rows first; `parts` go by its name."""
    whole: dict[str, Executor] = {}
    for name, part in parts:
        whole[name] = whole[name] + part if name in whole else part
    by_rows = sorted(whole.items(), key=lambda item: (-item[1].n_rows, item[0]))
    return {name: replace(executor, busy_s=round(executor.busy_s, 3)) for name, executor in by_rows}


def count_hosts(executors: Iterable[str]) -> int:
    """Return on how many machines executors are, by their names: host:pid."""
    return len({name.rpartition(":")[0] for name in executors})


def named(executors: Mapping[str, Executor]) -> dict[str, Executor]:
    """Return the first `MAX_NAMED` of them, and all others as one, "others"."""
    items = list(executors.items())
    shown, others = dict(items[:MAX_NAMED]), [executor for _, executor in items[MAX_NAMED:]]
    return {**shown, _OTHERS: reduce(Executor.__add__, others)} if others else shown


def worst(skews: Iterable[Skew]) -> Skew | None:
    """Return the one of which the cluster waited longest."""
    return max(skews, key=lambda skew: skew.longest_task_s - skew.median_task_s, default=None)


def describe_executors(
    n_executors: int, executors: Mapping[str, Executor], n_rows_again: int, skew: Skew | None
) -> str | None:
    """Return one line on them, None where one executor did all and nothing failed."""
    parts = []
    if n_executors > 1:
        n_loads = sum(executor.n_model_loads for executor in executors.values())
        loads = "a model each" if n_loads == n_executors else f"{n_loads:,} models loaded"
        parts.append(f"{n_executors:,} executors{_by_device(executors)}, {loads}")
    if n_rows_again:
        parts.append(f"{n_rows_again:,} rows embedded again, because a task or its executor failed")
    if n_executors > 1 and skew:
        parts.append(f"longest task {skew.longest_task_s:.1f} s, median {skew.median_task_s:.1f} s")
    return "; ".join(parts) or None


def _by_device(executors: Mapping[str, Executor]) -> str:
    """Return on what they ran, where that is not the same for all: the executors without a GPU by name."""
    kinds = {kind for executor in executors.values() for kind in executor.device_kinds}
    names = [name for name, executor in executors.items() if "cpu" in executor.device_kinds]
    if len(kinds) < 2:
        return ""
    others = " and others" if len(names) > _SHOWN_NAMES else ""
    return f" (on the CPU: {', '.join(names[:_SHOWN_NAMES])}{others})"
