"""Dynamic batching: what is prepared waits in a bounded queue, and goes to the device in batches, in order.

Knows no HTTP and no kind of model: `prepare` runs on threads beside the forward pass, `predict` on one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from spark_embed.errors import one_line

Prepared = TypeVar("Prepared")
Answer = TypeVar("Answer")

_SMOOTHING = 0.2  # of the newest batch, in the time that an image takes


class Observer(Protocol):
    """What is told of the queue and its batches."""

    def queued(self, n_images: int) -> None:
        """So many images are accepted, and not in a forward pass yet."""

    def ran(self, n_images: int, waited_s: Sequence[float]) -> None:
        """A forward pass ended; its images had waited so long since they were prepared."""


class QueueFullError(Exception):
    """There is no room for the images, or they would not be answered in time.

    Attributes:
        retry_after_s: when there will be some, as far as it can be told.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PredictError(Exception):
    """The forward pass of these images failed, or did not end."""


class HungError(PredictError):
    """It did not end; its thread cannot be stopped."""


@dataclass(frozen=True)
class Limits:
    """What a batcher keeps to.

    Attributes:
        batch_size: images in a forward pass.
        batch_wait_s: how long a batch that is not full waits for images that are being prepared.
        max_queue_size: images accepted, and not in a forward pass yet.
        answer_within_s: images that would wait longer than this are refused at once.
        hang_s: a forward pass that takes longer has hung.
        n_threads: that prepare.
    """

    batch_size: int
    batch_wait_s: float
    max_queue_size: int
    answer_within_s: float
    hang_s: float
    n_threads: int = 1


@dataclass(frozen=True)
class Done(Generic[Answer]):
    """An answer, with how it was made.

    Attributes:
        predict_s: seconds of its forward pass; 0 for what had none.
        batch_size: images in it.
    """

    answer: Answer
    predict_s: float = 0.0
    batch_size: int = 0


class _Entry(Generic[Prepared, Answer]):
    """One image on its way."""

    def __init__(self, prepare: Callable[[], Prepared | Answer]) -> None:
        self.prepare = prepare
        self.prepared: Prepared | None = None
        self.ready_at = 0.0
        self.is_queued = True
        self.done: asyncio.Future[Done[Answer]] = asyncio.get_running_loop().create_future()


class Batcher(Generic[Prepared, Answer]):
    """Takes images from any number of requests and gives each its answer; lives in one event loop.

    Args:
        predict: runs a batch; one answer for each, in order. Is called by one thread at a time.
        is_answer: says whether what `prepare` returned is an answer already (a bad image).
        on_failure: is called after a batch that failed; until it returns, none is run. What it raises ends
            `run`.
        limits: what to keep to.
        observer: what to tell.
    """

    def __init__(
        self,
        predict: Callable[[list[Prepared]], Sequence[Answer]],
        is_answer: Callable[[Prepared | Answer], bool],
        on_failure: Callable[[], None],
        limits: Limits,
        observer: Observer,
    ) -> None:
        self.limits = limits
        self.failure: str | None = None
        self._predict = predict
        self._is_answer = is_answer
        self._on_failure = on_failure
        self._observer = observer
        self._ready: deque[_Entry[Prepared, Answer]] = deque()
        self._n_queued = 0
        self._n_preparing = 0
        self._changed = asyncio.Event()
        self._image_s = 0.0
        self._busy_since: float | None = None
        self._threads: Executor = ThreadPoolExecutor(limits.n_threads, "prepare")
        self._device = ThreadPoolExecutor(1, "predict")

    @property
    def n_queued(self) -> int:
        """Images accepted, and not in a forward pass yet."""
        return self._n_queued

    @property
    def expected_wait_s(self) -> float:
        """How long an image that comes now will wait, by the pace of the last batches."""
        return self._n_queued * self._image_s

    def check_room(self, n_images: int) -> None:
        """Say no at once, before anything is read or decoded.

        Raises:
            QueueFullError: there is no room for so many images.
        """
        limits, expected_s = self.limits, self.expected_wait_s
        if self._n_queued + n_images > limits.max_queue_size:
            excess = self._n_queued + n_images - limits.max_queue_size
            raise QueueFullError(f"the queue is full: {self._n_queued} images wait", excess * self._image_s)
        if expected_s > limits.answer_within_s:
            raise QueueFullError(
                f"{self._n_queued} images wait, which takes {expected_s:.1f} s",
                expected_s - limits.answer_within_s,
            )

    async def answer(self, prepares: Sequence[Callable[[], Prepared | Answer]]) -> list[Done[Answer]]:
        """Return the answers of the images of one request, in order.

        Whoever cancels this takes its images out of the queue, and out of a batch that has not begun.

        Raises:
            QueueFullError: as `check_room`.
            PredictError: the forward pass of one of them failed.
        """
        self.check_room(len(prepares))
        entries = [_Entry[Prepared, Answer](prepare) for prepare in prepares]
        self._count(len(entries))
        try:
            return await asyncio.gather(*map(self._answer_one, entries))
        finally:
            for entry in entries:
                entry.done.cancel()
                self._leave(entry)

    async def run(self) -> None:
        """Run batches until cancelled.

        Raises:
            HungError: a forward pass has not ended.
        Exception: what `on_failure` raises.
        """
        try:
            while True:
                if batch := await self._next_batch():
                    await self._run_batch(batch)
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._device.shutdown(wait=False, cancel_futures=True)

    async def _answer_one(self, entry: _Entry[Prepared, Answer]) -> Done[Answer]:
        self._n_preparing += 1
        try:
            made = await asyncio.get_running_loop().run_in_executor(self._threads, entry.prepare)
        finally:
            self._n_preparing -= 1
            self._changed.set()  # a batch may wait for it
        if self._is_answer(made):
            self._leave(entry)
            return Done(made)  # type: ignore[arg-type]
        entry.prepared, entry.ready_at = made, time.perf_counter()  # type: ignore[assignment]
        self._ready.append(entry)
        return await entry.done

    async def _next_batch(self) -> list[_Entry[Prepared, Answer]]:
        """Return the next batch: at once if it is full, or nothing more is being prepared."""
        while not self._ready:
            self._changed.clear()
            await self._changed.wait()
        until = self._ready[0].ready_at + self.limits.batch_wait_s
        while len(self._ready) < self.limits.batch_size and self._n_preparing:
            self._changed.clear()
            try:
                async with asyncio.timeout(until - time.perf_counter()):
                    await self._changed.wait()
            except TimeoutError:
                break
        batch: list[_Entry[Prepared, Answer]] = []
        while self._ready and len(batch) < self.limits.batch_size:
            entry = self._ready.popleft()
            if not entry.done.done():  # else nobody waits for it any more
                batch.append(entry)
        return batch

    async def _run_batch(self, batch: list[_Entry[Prepared, Answer]]) -> None:
        started = time.perf_counter()
        for entry in batch:
            self._leave(entry)
        loop = asyncio.get_running_loop()
        try:
            call = loop.run_in_executor(self._device, self._predict, [entry.prepared for entry in batch])  # type: ignore[arg-type]  # all are prepared
            await asyncio.wait({call}, timeout=self.limits.hang_s)
            if not call.done():
                raise HungError(f"a forward pass has not ended within {self.limits.hang_s:g} s")
            answers = call.result()
            if len(answers) != len(batch):
                raise ValueError(f"predict gave {len(answers)} answers for {len(batch)} images")
        except HungError as exc:
            self._fail(batch, str(exc))
            raise
        except Exception as exc:  # noqa: BLE001  any at all: a model's code, and a driver's
            self._fail(batch, f"{type(exc).__name__}: {one_line(exc)}")
            await loop.run_in_executor(self._device, self._on_failure)
            self.failure = None
            return
        ended = time.perf_counter()
        # While images wait, from one end to the next: decoding may be slower than the device.
        image_s = (ended - (self._busy_since or started)) / len(batch)
        self._busy_since = ended if self._n_queued else None
        self._image_s += (_SMOOTHING if self._image_s else 1.0) * (image_s - self._image_s)
        self._observer.ran(len(batch), [started - entry.ready_at for entry in batch])
        for entry, answer in zip(batch, answers, strict=True):
            if not entry.done.done():
                entry.done.set_result(Done(answer, ended - started, len(batch)))

    def _fail(self, batch: Sequence[_Entry[Prepared, Answer]], why: str) -> None:
        self.failure, self._busy_since = why, None
        for entry in batch:
            if not entry.done.done():
                entry.done.set_exception(PredictError(why))

    def _leave(self, entry: _Entry[Prepared, Answer]) -> None:
        if entry.is_queued:
            entry.is_queued = False
            self._count(-1)

    def _count(self, n_images: int) -> None:
        self._n_queued += n_images
        self._observer.queued(self._n_queued)


def whole_seconds(seconds: float) -> int:
    """Return what a Retry-After header says of it: at least 1."""
    return max(1, math.ceil(seconds))
