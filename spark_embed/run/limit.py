"""When a run is to stop (--max_hours, --max_cost), and how much fits in before; knows no wave."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.inference.task import executor_name
from spark_embed.output.executors import count_hosts
from spark_embed.run.clock import Clock
from spark_embed.spark.context import is_local
from spark_embed.spark.settings import count_slots
from spark_embed.spark.tasks import run_tasks

# Of the time that is left, what waves are planned for; and each for a half of that, as the other wave that
# runs takes its part: a run at half the speed that was thought loses nothing at the limit. Before the first
# wave is complete, only preflight has an idea of the speed: of one task, alone and with its model loaded.
_PLANNED_SHARE = 0.9
_FIRST_SHARE = 0.25
_WAVES_AT_ONCE = 2

# A wave of less work is not worth its start; with short waves a tenth of --wave_s.
_LEAST_WAVE_S = 5.0


class Limit:
    """The end of a run's time, counted from the making of its clock; without an option that sets one, never.

    Attributes:
        config: the options.
        n_machines: that the run has, as far as known: each costs.
        is_reached: rows were left for it, or given up.
        n_retries_left: of them, rows of errors.parquet that were to be tried again.
        spent: how a model says that it has spent what it may; None while none does.
    """

    def __init__(self, config: Config, clock: Clock) -> None:
        self.n_machines = 1
        self.is_reached = False
        self.n_retries_left = 0
        self.spent: str | None = None
        self.config, self._clock = config, clock
        self._least_s = min(_LEAST_WAVE_S, config.wave_s / 10)

    @property
    def left_s(self) -> float:
        """Seconds until it; infinite where there is none."""
        return min(seconds for seconds, _ in self._limits()) - self._clock.total_s

    def __str__(self) -> str:
        return min(self._limits())[1]

    def saw(self, executors: Iterable[str]) -> None:
        """Take in which executors have run tasks, by name."""
        self.n_machines = max(self.n_machines, count_hosts(executors))

    def fitting_rows(self, rate: float | None, n_under_way: float, *, is_measured: bool) -> float:
        """Return how many rows a further wave may have at most; 0: none is to be started.

        Args:
            rate: rows per second of the whole run; None if nothing is known of it.
            n_under_way: rows of waves that are running which are still to be done.
            is_measured: whether the rate is that of complete waves.
        """
        left_s = self.left_s
        if left_s <= 0:
            return 0
        if math.isinf(left_s) or rate is None:
            return math.inf
        share = _PLANNED_SHARE if is_measured else _FIRST_SHARE
        n_rows = (share * left_s * rate - n_under_way) / _WAVES_AT_ONCE
        is_first = not (is_measured or n_under_way)  # else a run of half a minute would do nothing at all
        return n_rows if is_first or n_rows >= self._least_s * rate else 0

    def _limits(self) -> Iterable[tuple[float, str]]:
        """Yield the seconds of each limit, and how people say it."""
        yield math.inf, "no limit"
        if self.spent:
            yield 0, self.spent
        if (hours := self.config.max_hours) is not None:
            yield hours * 3600, f"--max_hours {hours:g}"
        if (cost := self.config.max_cost) is not None and (price := self.config.hourly_price):
            machines = "a machine" if self.n_machines == 1 else f"{self.n_machines:,} machines"
            yield (
                cost / price / self.n_machines * 3600,
                f"--max_cost {cost:g} ({machines} at ${price:g} an hour)",
            )


def list_executors(spark: SparkSession) -> list[str]:
    """Return the executors that there are now, by name: as many tasks as can run at once ask them."""
    n_slots = 1 if is_local(spark) else count_slots(spark)[0]
    return run_tasks(spark, _name, [None] * n_slots)


def _name(_: None) -> str:
    return executor_name()
