"""Threads that decode ahead, within a memory limit and a time limit per image; knows no Spark and no model.

A decode runs in C and cannot be stopped. One that takes too long is abandoned: its image is an error row, its
thread is replaced and its memory counts as free, so the images behind it go on.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from spark_embed.errors import ImageError

Given = TypeVar("Given")
Made = TypeVar("Made")

MAX_ABANDONED = 4
_LOOK_EVERY_S = 0.5
_CLOSE_WITHIN_S = 2.0


class DecodeMemory:
    """Memory shared by threads: reserved from the header's size before the pixels exist."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, n_bytes: int) -> Iterator[None]:
        """Wait until `n_bytes` are free; one image larger than the whole memory goes alone."""
        self.take(n_bytes)
        try:
            yield
        finally:
            self.give(n_bytes)

    def take(self, n_bytes: int) -> None:
        """Wait until `n_bytes` are free and reserve them."""
        n_bytes = min(n_bytes, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._used + n_bytes <= self._total)
            self._used += n_bytes

    def give(self, n_bytes: int) -> None:
        """Give back what `take` reserved."""
        with self._changed:
            self._used -= min(n_bytes, self._total)
            self._changed.notify_all()


class Job(Generic[Given, Made]):
    """One image on its way through the pool.

    Args:
        given: what is to be decoded.
        on_done: is called once it is done, by the thread that did it or gave it up.
    """

    def __init__(self, given: Given, on_done: Callable[[], object] = lambda: None) -> None:
        self._given: Given | None = given
        self._on_done = on_done
        self._made: Made | None = None
        self._failure: BaseException | None = None
        self._is_done = False
        self._done = threading.Lock()  # held until it is done: an Event costs ten times as much
        self._done.acquire()
        self._lock = threading.Lock()
        self._memory: DecodeMemory | None = None
        self._reserved = 0
        self._limit_from: float | None = None

    @property
    def given(self) -> Given:
        """What is to be decoded."""
        return self._given  # type: ignore[return-value]  # a dropped one is asked for nothing

    @property
    def is_dropped(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._given is None

    def drop(self) -> None:
        """Let go of what was given: a job that has not begun will not."""
        self._given = None

    @contextmanager
    def decoding(self, memory: DecodeMemory, n_bytes: int) -> Iterator[None]:
        """Hold `n_bytes` of the memory; the time limit counts from here on."""
        memory.take(n_bytes)
        with self._lock:
            self._memory, self._reserved, self._limit_from = memory, n_bytes, time.monotonic()
        try:
            yield
        finally:
            self._release()

    def running_s(self) -> float:
        """Return for how long it has been decoding; 0 before and after."""
        since = self._limit_from
        return 0.0 if since is None else time.monotonic() - since

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is done, at most `timeout_s`; say whether it is."""
        if not self._done.acquire(timeout=timeout_s):
            return False
        self._done.release()
        return True

    def finish(self, made: Made | None, failure: BaseException | None = None) -> bool:
        """Set the outcome, if none is set yet; say whether this was the first."""
        self._release()
        with self._lock:
            if self._is_done:
                return False
            self._made, self._failure, self._is_done = made, failure, True
        self._done.release()
        self._on_done()
        return True

    def outcome(self) -> Made:
        """Return what was made, or raise what went wrong; only once it is done."""
        if self._failure is not None:
            raise self._failure
        return self._made  # type: ignore[return-value]

    def _release(self) -> None:
        with self._lock:
            memory, self._memory, self._limit_from = self._memory, None, None
        if memory is not None:
            memory.give(self._reserved)


class DecodePool(Generic[Given, Made]):
    """A fixed number of threads that run `work(job)` on jobs in their order.

    Args:
        work: runs on the threads; enters `job.decoding` around what may take long.
        on_timeout: makes what a job that exceeds `limit_s` gives instead, of what it was given.
        limit_s: seconds that one decode may take; None for no limit.
    """

    def __init__(
        self,
        work: Callable[[Job[Given, Made]], Made],
        on_timeout: Callable[[Given, ImageError], Made],
        n_threads: int,
        limit_s: float | None,
    ) -> None:
        self._work = work
        self._on_timeout = on_timeout
        self._limit_s = limit_s
        self._queue: queue.SimpleQueue[Job[Given, Made] | None] = queue.SimpleQueue()
        self._running: set[Job[Given, Made]] = set()
        self._n_abandoned = 0
        self._n_threads = n_threads
        self._closed = False
        self._threads: list[threading.Thread] = []
        for _ in range(n_threads):
            self._start_thread()

    def submit(self, given: Given, on_done: Callable[[], object] = lambda: None) -> Job[Given, Made]:
        """Queue one job and return it; `on_done` is called once it is done."""
        job: Job[Given, Made] = Job(given, on_done)
        self._queue.put(job)
        return job

    def result(self, job: Job[Given, Made]) -> Made:
        """Wait for a job and return what it made, or raise what `work` raised.

        Raises:
            RuntimeError: more decodes are stuck than threads may be abandoned.
        """
        while not job.wait(_LOOK_EVERY_S):
            self.abandon_stuck()
        return job.outcome()

    def close(self) -> None:
        """End the threads, and wait for those that are not stuck; jobs that are still queued are dropped."""
        self._closed = True
        for _ in range(self._n_threads):
            self._queue.put(None)
        give_up = time.monotonic() + _CLOSE_WITHIN_S
        for thread in self._threads:
            thread.join(max(0.0, give_up - time.monotonic()))

    def _start_thread(self) -> None:
        # A daemon: an interpreter that ends does not wait for a thread that never will.
        thread = threading.Thread(target=self._loop, name="decode", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _loop(self) -> None:
        while (job := self._queue.get()) is not None and not self._closed:
            if job.is_dropped:
                continue
            self._running.add(job)
            try:
                first = job.finish(self._work(job))
            except BaseException as exc:  # noqa: BLE001  raised again where the result is asked for
                first = job.finish(None, exc)
            self._running.discard(job)
            if not first:  # abandoned meanwhile, and this thread replaced
                self._n_abandoned -= 1
                return

    def abandon_stuck(self) -> None:
        """Give up the jobs that take longer than they may; their threads are replaced.

        Raises:
            RuntimeError: more are stuck than threads may be abandoned.
        """
        if self._limit_s is None:
            return
        for job in list(self._running):
            if job.running_s() < self._limit_s:
                continue
            error = ImageError("timeout", f"decoding took longer than {self._limit_s:g} s")
            if not job.finish(self._on_timeout(job.given, error)):
                continue
            self._n_abandoned += 1
            if self._n_abandoned > MAX_ABANDONED:
                raise RuntimeError(
                    f"{self._n_abandoned} decodes of this task took longer than {self._limit_s:g} s"
                )
            self._start_thread()
