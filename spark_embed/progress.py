"""How far a Spark job is: a bar on a terminal, one line per half minute in a log."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import uuid
from types import TracebackType

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession
from tqdm import tqdm

logger = logging.getLogger(__name__)

_JOB_PROPERTIES = ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel")
_TERMINAL_INTERVAL_S = 0.5
_LOG_INTERVAL_S = 30.0


class Progress:
    """Watch the Spark jobs that the calling thread starts inside a `with` block.

    Counts finished tasks, so the number of images is an estimate; a run's own counts come from its rows.
    """

    def __init__(self, spark: SparkSession, n_images: int) -> None:
        self._context = spark.sparkContext
        self._n_images = n_images
        self._group = f"spark_embed-{uuid.uuid4()}"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        self._properties_before = {name: self._context.getLocalProperty(name) for name in _JOB_PROPERTIES}
        self._context.setJobGroup(self._group, "spark_embed: embed images", interruptOnCancel=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        with contextlib.suppress(Py4JError, OSError):  # the JVM may be what ended the block
            if kind is not None:
                self._context.cancelJobGroup(self._group)
            for name, value in self._properties_before.items():
                self._context.setLocalProperty(name, value)  # type: ignore[arg-type]

    def _watch(self) -> None:
        with contextlib.suppress(Py4JError, OSError):  # the JVM is gone, and the main thread says so
            self._show()

    def _show(self) -> None:
        if not sys.stderr.isatty():
            started = time.monotonic()
            while not self._done.wait(_LOG_INTERVAL_S):
                logger.info("%s", self._line(self._fraction(), time.monotonic() - started))
            return
        with tqdm(total=self._n_images, unit="img", desc="embedding", file=sys.stderr) as bar:
            while not self._done.wait(_TERMINAL_INTERVAL_S):
                bar.update(int(self._fraction() * self._n_images) - bar.n)
            bar.update(int(self._fraction() * self._n_images) - bar.n)

    def _fraction(self) -> float:
        tracker = self._context.statusTracker()
        n_tasks = n_finished = 0
        for job in tracker.getJobIdsForGroup(self._group):
            info = tracker.getJobInfo(job)
            for stage_id in info.stageIds if info else ():
                if stage := tracker.getStageInfo(stage_id):
                    n_tasks += stage.numTasks
                    n_finished += stage.numCompletedTasks
        return n_finished / n_tasks if n_tasks else 0.0

    def _line(self, fraction: float, elapsed_s: float) -> str:
        n_done = int(fraction * self._n_images)
        left = f"about {elapsed_s / fraction - elapsed_s:,.0f} s left" if fraction else "no task finished yet"
        return f"{n_done:,} of {self._n_images:,} images ({n_done / elapsed_s:,.1f} images/s), {left}"
