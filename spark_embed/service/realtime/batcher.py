"""Dynamic batching: what is prepared waits in a bounded queue, and goes to the device in batches, in order.

Knows no HTTP and no kind of model: `prepare` is awaited beside the forward pass, which has one thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from spark_embed.errors import one_line
from spark_embed.live.model import Ready
from spark_embed.service.realtime.metrics import Metrics

Given = TypeVar("Given")
Answer = TypeVar("Answer")

_SMOOTHING = 0.2  # of the newest batch, in the time that an image takes

logger = logging.getLogger(__name__)


class QueueFullError(Exception):
    """There is no room for the images, or they would not be answered in time.

    Attributes:
        retry_after_s: when there will be some, as far as it can be told.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PredictError(Exception):
    """The forward pass of these images failed, or there will be none."""


class HungError(Exception):
    """A forward pass has not ended; its thread cannot be stopped."""


@dataclass(frozen=True)
class Limits:
    """What a batcher keeps to.

    Attributes:
        batch_size: images in a forward pass.
        batch_wait_s: how long a batch that is not full waits for images that are being prepared.
        max_queue_size: images accepted, and not in a forward pass yet.
        max_queue_bytes: what of them is prepared.
        answer_within_s: images that would wait longer than this are refused at once.
        hang_s: a forward pass that takes longer has hung.
    """

    batch_size: int
    batch_wait_s: float
    max_queue_size: int
    max_queue_bytes: int
    answer_within_s: float
    hang_s: float


@dataclass(frozen=True)
class Done(Generic[Answer]):
    """An answer, with how it was made.

    Attributes:
        wait_s: seconds from being prepared to its forward pass; 0 for what had none, as the next two.
        predict_s: seconds of its forward pass.
        batch_size: images in it.
    """

    answer: Answer
    wait_s: float = 0.0
    predict_s: float = 0.0
    batch_size: int = 0


class _Entry(Generic[Answer]):
    """One image on its way."""

    def __init__(self) -> None:
        self.ready: Ready | None = None
        self.ready_at = 0.0
        self.is_queued = True
        self.done: asyncio.Future[Done[Answer]] = asyncio.get_running_loop().create_future()

    def fail(self, exc: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(exc)


class Batcher(Generic[Given, Answer]):
    """Takes images from any number of requests and gives each its answer; lives in one event loop.

    Args:
        prepare: what is given of an image -> what the device takes; or its answer already (a bad image).
        predict: runs a batch; one answer for each, in order. Is called by one thread at a time.
        try_model: is called after a batch that failed, before the next; what it raises ends `run`.
        limits: what to keep to.
        metrics: what to tell.
    """

    def __init__(
        self,
        prepare: Callable[[Given], Awaitable[Ready | Answer]],
        predict: Callable[[list[Any]], Sequence[Answer]],
        try_model: Callable[[], object],
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self.limits = limits
        self.failure: str | None = None
        self._prepare = prepare
        self._predict = predict
        self._try_model = try_model
        self._metrics = metrics
        self._entries: set[_Entry[Answer]] = set()
        self._ready: deque[_Entry[Answer]] = deque()
        self._n_queued = self._n_preparing = self._n_ready_bytes = 0
        self._changed = asyncio.Event()
        self._is_free = asyncio.Event()  # the device
        self._is_free.set()
        self._image_s = 0.0
        self._busy_since: float | None = None
        self._device = ThreadPoolExecutor(1, "predict")

    @property
    def n_queued(self) -> int:
        """Images accepted, and not in a forward pass yet."""
        return self._n_queued

    def check_room(self, n_images: int) -> None:
        """Say no at once, before anything is read or decoded.

        Raises:
            QueueFullError: there is no room for so many images, by number, bytes or time.
        """
        limits, waiting = self.limits, f"{self._n_queued} images wait"
        expected_s = self._n_queued * self._image_s
        if (excess := self._n_queued + n_images - limits.max_queue_size) > 0:
            raise QueueFullError(f"the queue is full: {waiting}", excess * self._image_s)
        if self._n_ready_bytes >= limits.max_queue_bytes:
            raise QueueFullError(f"the queue is full: {waiting}, of {self._n_ready_bytes} bytes", expected_s)
        if expected_s > limits.answer_within_s:
            raise QueueFullError(
                f"{waiting}, which takes {expected_s:.1f} s", expected_s - limits.answer_within_s
            )

    async def answer(self, images: Sequence[Given]) -> list[Done[Answer]]:
        """Return the answers of the images of one request, in order.

        Whoever cancels this takes its images out of the queue, and out of a batch that has not begun.

        Raises:
            QueueFullError: as `check_room`.
            PredictError: the forward pass of one of them failed.
            Exception: what `prepare` raises.
        """
        self.check_room(len(images))
        entries = [_Entry[Answer]() for _ in images]
        self._entries.update(entries)
        self._count(len(entries))
        tasks = [asyncio.create_task(self._get_ready(*one)) for one in zip(entries, images, strict=True)]
        try:
            return await asyncio.gather(*(entry.done for entry in entries))
        finally:
            for entry, task in zip(entries, tasks, strict=True):
                task.cancel()
                entry.done.cancel()
                self._leave(entry)
                self._entries.discard(entry)

    async def run(self) -> None:
        """Run batches until cancelled; whoever waits in the end is told so.

        Raises:
            HungError: a forward pass has not ended.
            Exception: what `try_model` raises.
        """
        try:
            while True:
                if batch := await self._next_batch():
                    await self._run_batch(batch)
        finally:
            self.failure = self.failure or "the service is shutting down"
            for entry in list(self._entries):
                entry.fail(PredictError(self.failure))
            self._device.shutdown(wait=False, cancel_futures=True)

    async def _get_ready(self, entry: _Entry[Answer], given: Given) -> None:
        # On a CPU an image that is decoded beside a forward pass stops one of its threads, and so all: they
        # wait for each other. What the next batch does not need waits for it, and then uses all cores.
        while len(self._ready) >= self.limits.batch_size and not self._is_free.is_set():
            await self._is_free.wait()
        self._n_preparing += 1
        try:
            made = await self._prepare(given)
        except Exception as exc:  # noqa: BLE001  raised again where the answer is waited for
            entry.fail(exc)
            return
        finally:
            self._n_preparing -= 1
            self._changed.set()  # a batch may wait for it
        if not isinstance(made, Ready):
            self._leave(entry)
            if not entry.done.done():
                entry.done.set_result(Done(made))
        elif self._n_ready_bytes and self._n_ready_bytes + made.n_bytes > self.limits.max_queue_bytes:
            entry.fail(QueueFullError(f"the queue is full: {self._n_ready_bytes} bytes are prepared", 1.0))
        elif entry.is_queued:
            entry.ready, entry.ready_at = made, time.perf_counter()
            self._n_ready_bytes += made.n_bytes
            self._ready.append(entry)

    async def _next_batch(self) -> list[_Entry[Answer]]:
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
        batch: list[_Entry[Answer]] = []
        while self._ready and len(batch) < self.limits.batch_size:
            entry = self._ready.popleft()
            if entry.ready is not None:  # else nobody waits for it any more
                batch.append(entry)
        return batch

    async def _run_batch(self, batch: list[_Entry[Answer]]) -> None:
        started = time.perf_counter()
        prepared = [entry.ready.prepared for entry in batch if entry.ready is not None]
        for entry in batch:
            self._leave(entry)
        try:
            answers = await self._on_device(lambda: self._predict(prepared))
            if len(answers) != len(batch):
                raise ValueError(f"predict gave {len(answers)} answers for {len(batch)} images")
        except HungError as exc:
            self.failure = str(exc)
            raise
        except Exception as exc:  # any at all: a model's code, and a driver's
            logger.exception("a batch of %d failed", len(batch))
            self.failure, self._busy_since = f"{type(exc).__name__}: {one_line(exc)}", None
            for entry in batch:
                entry.fail(PredictError(self.failure))
            await self._on_device(self._try_model)
            self.failure = None
            return
        ended = time.perf_counter()
        self._keep_pace(started, ended, len(batch))
        waited_s = [started - entry.ready_at for entry in batch]
        self._metrics.ran(len(batch), waited_s)
        for entry, answer, wait_s in zip(batch, answers, waited_s, strict=True):
            if not entry.done.done():
                entry.done.set_result(Done(answer, wait_s, ended - started, len(batch)))

    async def _on_device(self, call: Callable[[], Any]) -> Any:
        """Return what a call comes to, on the device's thread.

        Raises:
            HungError: it has not ended in time.
            Exception: what it raises.
        """
        self._is_free.clear()
        running = asyncio.get_running_loop().run_in_executor(self._device, _guarded, call)
        await asyncio.wait({running}, timeout=self.limits.hang_s)
        self._is_free.set()
        if not running.done():
            raise HungError(f"a forward pass has not ended within {self.limits.hang_s:g} s")
        return running.result()

    def _keep_pace(self, started: float, ended: float, n_images: int) -> None:
        """Learn how long an image takes: while batches wait, decoding too, which may be slower."""
        image_s = (ended - (self._busy_since or started)) / n_images
        self._busy_since = ended if self._n_queued >= self.limits.batch_size else None
        self._image_s += (_SMOOTHING if self._image_s else 1.0) * (image_s - self._image_s)

    def _leave(self, entry: _Entry[Answer]) -> None:
        """Take an image out of the queue, and let go of its pixels."""
        if entry.is_queued:
            entry.is_queued = False
            self._count(-1)
        if entry.ready is not None:
            self._n_ready_bytes -= entry.ready.n_bytes
            entry.ready = None

    def _count(self, n_images: int) -> None:
        self._n_queued += n_images
        self._metrics.queue_depth.set(self._n_queued)


def _guarded(call: Callable[[], Any]) -> Any:
    """Call, and turn what no future can hold, or would end the event loop, into an error."""
    try:
        return call()
    except (StopIteration, SystemExit) as exc:
        raise RuntimeError(f"{type(exc).__name__}: {exc}") from exc


def whole_seconds(seconds: float) -> int:
    """Return what a Retry-After header says of it: at least 1."""
    return max(1, math.ceil(seconds))
