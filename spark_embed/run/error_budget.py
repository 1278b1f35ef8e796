"""Stops a run in which too many images fail: dead DNS or wrong credentials are no data set of errors."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Mapping
from types import TracebackType

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from spark_embed.errors import ErrorBudgetExceeded
from spark_embed.inference.tally import ROWS, Tally, make_tally
from spark_embed.output.records import Counted
from spark_embed.spark.context import is_connect
from spark_embed.spark.jobs import JobGroups

_LOOK_EVERY_S = 0.5


class ErrorBudget:
    """Watches Spark jobs inside a `with` block, and cancels them once too many of their rows are errors.

    Tasks report when they end, so a run stops some time after its budget is spent; those of Spark Connect,
    which has no accumulators, cannot, and only whole waves count. Of a model with several results, each has
    the budget for itself.

    Args:
        spark: the session.
        jobs: those to cancel.
        max_fraction: of all rows so far that may be errors; None: no limit, and nothing is counted.
        min_count: errors that there must be before the fraction counts.
    """

    def __init__(
        self, spark: SparkSession, jobs: JobGroups, max_fraction: float | None, min_count: int
    ) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()
        self._n_rows, self._errors = 0, Counter[tuple[str, str]]()
        self._max_fraction, self._min_count = max_fraction, min_count
        self._exceeded: str | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="error budget", daemon=True)
        self.tally: Tally | None = None
        if max_fraction is not None and not is_connect(spark):
            self.tally = make_tally(spark)

    def __enter__(self) -> ErrorBudget:
        if self.tally is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self.tally is not None:
            self._thread.join()
        if self._exceeded and isinstance(exc, (PySparkException, Py4JError)):
            raise ErrorBudgetExceeded(self._exceeded) from exc

    def add(self, counted: Counted) -> None:
        """Add the rows of a wave to those of the waves before, and check them all.

        Raises:
            ErrorBudgetExceeded: more of them are errors than may be.
        """
        with self._lock:
            self._n_rows += counted.n_rows
            self._errors.update(counted.errors)
            if text := self._judge(self._errors, self._n_rows):
                raise ErrorBudgetExceeded(text)

    def _watch(self) -> None:
        with contextlib.suppress(Py4JError, OSError):  # the JVM is gone, and the main thread says so
            while not self._exceeded and not self._done.wait(_LOOK_EVERY_S):
                errors = Counter(self.tally.value) if self.tally else Counter()
                self._exceeded = self._judge(errors, errors.pop(ROWS, 0))
                if self._exceeded:
                    self._jobs.cancel()

    def _judge(self, errors: Mapping[tuple[str, str], int], n_rows: int) -> str | None:
        """Return what is wrong, or None.

        Args:
            errors: rows by (result, code).
            n_rows: all of them.
        """
        for result in dict.fromkeys(result for result, _ in errors):
            by_code = {code: number for (name, code), number in errors.items() if name == result}
            n_errors = sum(by_code.values())
            if self._max_fraction is None or n_errors < self._min_count:
                continue
            if n_errors > self._max_fraction * n_rows:
                code, n_most = max(by_code.items(), key=lambda item: item[1])
                what = "are errors" if len({name for name, _ in errors}) == 1 else f"have no {result}"
                return (
                    f"{n_errors:,} of the first {n_rows:,} rows {what} ({n_errors / n_rows:.0%}, most of "
                    f"them {code}: {n_most:,}), more than --max_error_fraction {self._max_fraction:g}; "
                    "these rows stay pending, and complete waves complete"
                )
        return None
