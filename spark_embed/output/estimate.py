"""From what a sample took to what a whole run will take and cost, with its uncertainty; plain arithmetic."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spark_embed.output.cost import Cost, cost_of
from spark_embed.output.status import duration

# What remains unknown however even the passes were: other images, and a machine that is not always as fast.
_LEAST_UNCERTAINTY = 0.05
_FIXED_UNCERTAINTY = 0.15


@dataclass(frozen=True)
class Pass:
    """One job over the sample, in workers that had the model already.

    Attributes:
        rows_per_task: rows of each task, about.
        task_s: seconds of each, about.
        spread: how much longer the longest took than the median one, as a part of that.
    """

    rows_per_task: float
    task_s: float
    spread: float = 0.0


@dataclass(frozen=True)
class Pace:
    """What a row takes one task, in the middle of a long one; `uncertainty` is a part of that."""

    row_s: float
    uncertainty: float


def find_pace(rounds: Sequence[tuple[Pass, Pass]]) -> Pace:
    """Return the pace by rounds of a small and a large pass.

    The difference of the two is free of what each task takes besides its rows: with 200 images of a light
    model that is as much as the images. The uncertainty is twice the standard error over the rounds, or what
    the tasks of a pass differ by, or a twentieth.
    """
    paces = []
    for small, large in rounds:
        whole = large.task_s / large.rows_per_task
        difference = large.rows_per_task - small.rows_per_task
        row_s = (large.task_s - small.task_s) / difference if difference > 0 else whole
        # No task costs less than its rows; and a pass that was disturbed says nothing.
        paces.append(min(max(row_s, whole / 10), whole))
    row_s = statistics.median(paces)
    error = 2 * statistics.stdev(paces) / len(paces) ** 0.5 / row_s if len(paces) > 1 else 0.0
    spread = statistics.median(large.spread for _, large in rounds)
    return Pace(row_s, max(error, spread, _LEAST_UNCERTAINTY))


@dataclass(frozen=True)
class Sampled:
    """What a sample has taken, and of what.

    Attributes:
        n_rows: of the whole run.
        n_shards: of the data set.
        n_sampled: rows of the sample.
        seconds: of a whole run over the sample alone, from the start of the process to the published files.
        n_slots: tasks at once.
        n_machines: on which they ran.
        device: on which the model ran.
    """

    n_rows: int
    n_shards: int
    n_sampled: int
    seconds: float
    n_slots: int
    n_machines: int
    device: str
    pace: Pace


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes:
        images_per_s: of all workers, while embedding.
        uncertainty: of that, as a part of it.
        fixed_s: start, plan, preflight, loading the model, publishing.
        seconds, least_s, most_s: of the whole run, and between what it should lie.
        cost: USD and the rest; None without a price.
    """

    n_rows: int
    n_shards: int
    n_sampled: int
    n_workers: int
    n_slots: int
    device: str
    images_per_s: float
    uncertainty: float
    fixed_s: float
    seconds: float
    least_s: float
    most_s: float
    cost: Cost | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        values = asdict(self)
        values["cost"] = values["cost"] or {}
        return values

    def text(self) -> str:
        """Return it for a person, a few lines."""
        workers = "1 machine" if self.n_workers == 1 else f"{self.n_workers:,} machines"
        return "\n".join(
            [
                f"rows    {self.n_rows:,} in {self.n_shards:,} shards; {self.n_sampled:,} of them embedded",
                f"speed   {self.images_per_s:,.1f} images/s on {workers}, {self.n_slots:,} tasks at once "
                f"({self.device}); give or take {self.uncertainty:.0%}",
                f"fixed   {self.fixed_s:,.1f} s: start, plan, preflight, loading the model, publishing",
                f"time    {duration(self.seconds)}: from {duration(self.least_s)} to {duration(self.most_s)}",
                *([f"cost    {self.cost.text()}"] if self.cost else []),
            ]
        )


def estimate(sampled: Sampled, n_workers: int, hourly_price: float | None) -> Estimate:
    """Return what the whole run will take on so many machines like those of the sample."""
    pace, workers = sampled.pace, n_workers / sampled.n_machines
    fixed_s = max(sampled.seconds - sampled.n_sampled * pace.row_s / sampled.n_slots, 0.0)
    rate = sampled.n_slots * workers / pace.row_s
    embed_s = sampled.n_rows / rate
    seconds = fixed_s + embed_s
    return Estimate(
        n_rows=sampled.n_rows,
        n_shards=sampled.n_shards,
        n_sampled=sampled.n_sampled,
        n_workers=n_workers,
        n_slots=round(sampled.n_slots * workers),
        device=sampled.device,
        images_per_s=round(rate, 2),
        uncertainty=round(pace.uncertainty, 3),
        fixed_s=round(fixed_s, 2),
        seconds=round(seconds, 2),
        least_s=round(fixed_s / (1 + _FIXED_UNCERTAINTY) + embed_s / (1 + pace.uncertainty), 2),
        most_s=round(fixed_s * (1 + _FIXED_UNCERTAINTY) + embed_s * (1 + pace.uncertainty), 2),
        cost=None if hourly_price is None else cost_of(n_workers, seconds, hourly_price, sampled.n_rows),
    )
