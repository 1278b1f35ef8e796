"""How far a run is: a bar on a terminal, one line per half minute in a log, a file for everybody else."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from py4j.protocol import Py4JError
from tqdm import tqdm

from spark_embed.errors import StorageError
from spark_embed.spark.jobs import JobGroups

logger = logging.getLogger(__name__)

_TERMINAL_INTERVAL_S = 0.5
_LOG_INTERVAL_S = 30.0
_TELL_INTERVAL_S = 5.0


class Progress:
    """Watches the jobs of a run inside a `with` block.

    Counts finished tasks, so the number of images is an estimate; a run's own counts come from its rows.

    Args:
        jobs: those to watch.
        n_images: that the jobs will have embedded in the end.
        tell: called every few seconds with the images that are done, and once more at the end.
    """

    def __init__(
        self, jobs: JobGroups, n_images: int, tell: Callable[[int], None] = lambda n_done: None
    ) -> None:
        self._jobs, self._n_images, self._tell = jobs, n_images, tell
        self._done = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._watch, self._report)]

    def __enter__(self) -> Progress:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _watch(self) -> None:
        with contextlib.suppress(Py4JError, OSError):  # the JVM is gone, and the main thread says so
            self._show()

    def _report(self) -> None:
        """Tell; what cannot be told now is told later: the run does not depend on it."""
        last = False
        while not last:
            with contextlib.suppress(Py4JError, OSError, StorageError):
                self._tell(self._jobs.n_done())
            last = self._done.wait(_TELL_INTERVAL_S)
        with contextlib.suppress(Py4JError, OSError, StorageError):
            self._tell(self._jobs.n_done())

    def _show(self) -> None:
        if not getattr(sys.stderr, "isatty", lambda: False)():  # some platforms' own stream has none
            started = time.monotonic()
            while not self._done.wait(_LOG_INTERVAL_S):
                logger.info("%s", self._line(self._jobs.n_done(), time.monotonic() - started))
            return
        with tqdm(total=self._n_images, unit="img", desc="embedding", file=sys.stderr) as bar:
            while not self._done.wait(_TERMINAL_INTERVAL_S):
                bar.update(self._jobs.n_done() - bar.n)
            bar.update(self._jobs.n_done() - bar.n)

    def _line(self, n_done: int, elapsed_s: float) -> str:
        left = "no task finished yet"
        if n_done:
            left = f"about {elapsed_s * (self._n_images - n_done) / n_done:,.0f} s left"
        return f"{n_done:,} of {self._n_images:,} images ({n_done / elapsed_s:,.1f} images/s), {left}"
