"""The Spark jobs of a run, whichever threads start them: watched together, and cancelled together."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

from spark_embed.spark.context import context_of

_PROPERTIES = ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel")


class JobGroups:
    """Groups of Spark jobs that are under way, each with the rows that it works on."""

    def __init__(self, spark: SparkSession) -> None:
        self._context = context_of(spark)
        self._lock = threading.Lock()
        self._rows: dict[str, int] = {}
        self._n_ended = 0

    @contextlib.contextmanager
    def group(self, description: str, n_rows: int) -> Iterator[None]:
        """Put the jobs that this thread starts inside the `with` block into a group of their own."""
        context = self._context
        before = {name: context.getLocalProperty(name) for name in _PROPERTIES}
        group = f"spark_embed-{uuid.uuid4()}"
        context.setJobGroup(group, f"spark_embed: {description}", interruptOnCancel=True)
        with self._lock:
            self._rows[group] = n_rows
        try:
            yield
        except BaseException:
            with self._lock:
                del self._rows[group]
            raise
        else:
            with self._lock:
                self._n_ended += self._rows.pop(group)
        finally:
            with contextlib.suppress(Py4JError, OSError):  # the JVM may be what ended the block
                for name, value in before.items():
                    context.setLocalProperty(name, value)  # type: ignore[arg-type]

    def cancel(self) -> None:
        """Cancel the jobs that are under way."""
        with self._lock:
            groups = list(self._rows)
        with contextlib.suppress(Py4JError, OSError):
            for group in groups:
                if self._is_active(group):  # else Spark complains
                    self._context.cancelJobGroup(group)

    def _is_active(self, group: str) -> bool:
        tracker = self._context.statusTracker()
        found = map(tracker.getJobInfo, tracker.getJobIdsForGroup(group))
        return any(info.status == "RUNNING" for info in found if info)

    def n_done(self) -> int:
        """Return the rows that are done, about: of ended groups all, of others by their finished tasks."""
        with self._lock:
            running, n_done = dict(self._rows), self._n_ended
        return n_done + sum(int(n_rows * self._fraction(group)) for group, n_rows in running.items())

    def _fraction(self, group: str) -> float:
        tracker = self._context.statusTracker()
        n_tasks = n_finished = 0
        for job in tracker.getJobIdsForGroup(group):
            info = tracker.getJobInfo(job)
            for stage_id in info.stageIds if info else ():
                if stage := tracker.getStageInfo(stage_id):
                    n_tasks += stage.numTasks
                    n_finished += stage.numCompletedTasks
        return n_finished / n_tasks if n_tasks else 0.0
