"""The Spark jobs of a run, whichever threads start them: watched together, and cancelled together."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from typing import Any, Protocol

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from spark_embed.spark.context import context_of, is_connect

_PROPERTIES = ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel")


class JobGroups:
    """Groups of Spark jobs that are under way, each with the rows that it works on."""

    def __init__(self, spark: SparkSession) -> None:
        self._marks: _Marks = _Tags(spark) if is_connect(spark) else _Groups(spark)
        self._lock = threading.Lock()
        self._rows: dict[str, int] = {}
        self._n_ended = 0

    @contextlib.contextmanager
    def group(self, description: str, n_rows: int) -> Iterator[None]:
        """Put the jobs that this thread starts inside the `with` block into a group of their own."""
        group = f"spark_embed-{uuid.uuid4()}"
        with self._marks.mark(group, f"spark_embed: {description}"):
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

    def cancel(self) -> None:
        """Cancel the jobs that are under way."""
        with self._lock:
            groups = list(self._rows)
        with contextlib.suppress(PySparkException, Py4JError, OSError):
            for group in groups:
                self._marks.cancel(group)

    def n_done(self) -> int:
        """Return the rows that are done, about: of ended groups all, of others by their finished tasks."""
        with self._lock:
            running, n_done = dict(self._rows), self._n_ended
        return n_done + sum(int(n_rows * self._marks.fraction(group)) for group, n_rows in running.items())


class _Marks(Protocol):
    """How the jobs of a group are told from others."""

    def mark(self, group: str, description: str) -> contextlib.AbstractContextManager[None]:
        """Mark the jobs that this thread starts inside a `with` block."""

    def cancel(self, group: str) -> None:
        """Cancel those that are under way."""

    def fraction(self, group: str) -> float:
        """Return how much of a group is done, by its finished tasks."""


class _Groups:
    """Job groups, which the driver's own context has, and its status tracker."""

    def __init__(self, spark: SparkSession) -> None:
        self._context = context_of(spark)

    @contextlib.contextmanager
    def mark(self, group: str, description: str) -> Iterator[None]:
        context = self._context
        before = {name: context.getLocalProperty(name) for name in _PROPERTIES}
        context.setJobGroup(group, description, interruptOnCancel=True)
        try:
            yield
        finally:
            with contextlib.suppress(Py4JError, OSError):  # the JVM may be what ended the block
                for name, value in before.items():
                    context.setLocalProperty(name, value)  # type: ignore[arg-type]

    def cancel(self, group: str) -> None:
        tracker = self._context.statusTracker()
        found = map(tracker.getJobInfo, tracker.getJobIdsForGroup(group))
        if any(info.status == "RUNNING" for info in found if info):  # else Spark complains
            self._context.cancelJobGroup(group)

    def fraction(self, group: str) -> float:
        tracker = self._context.statusTracker()
        n_tasks = n_finished = 0
        for job in tracker.getJobIdsForGroup(group):
            info = tracker.getJobInfo(job)
            for stage_id in info.stageIds if info else ():
                if stage := tracker.getStageInfo(stage_id):
                    n_tasks += stage.numTasks
                    n_finished += stage.numCompletedTasks
        return n_finished / n_tasks if n_tasks else 0.0


class _Tags:
    """Tags of a Connect session, and what its server tells of the stages that are under way (from Spark 4.0).

    Nothing here asks the server, but to cancel: one that is away would be asked again for ten minutes.
    """

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark
        self._fractions: dict[str, float] = {}

    @contextlib.contextmanager
    def mark(self, group: str, description: str) -> Iterator[None]:
        thread = threading.get_ident()

        def on_progress(stages: Any, **_: Any) -> None:
            n_tasks = sum(stage.num_tasks for stage in stages or ())
            # The session tells all that listen of every query, on the thread that waits for it.
            if n_tasks and threading.get_ident() == thread:
                n_finished = sum(stage.num_completed_tasks for stage in stages)
                self._fractions[group] = n_finished / n_tasks

        listens = hasattr(self._spark, "registerProgressHandler")
        if listens:
            self._spark.registerProgressHandler(on_progress)
        self._spark.addTag(group)
        try:
            yield
        finally:
            self._spark.removeTag(group)
            if listens:
                self._spark.removeProgressHandler(on_progress)
            self._fractions.pop(group, None)

    def cancel(self, group: str) -> None:
        self._spark.interruptTag(group)

    def fraction(self, group: str) -> float:
        return self._fractions.get(group, 0.0)
