"""The loop inside one task: fetch, decode and prepare ahead on threads, batch, predict, time each part.

Knows no Spark: references come in, outcomes go out, one for each, in order.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from spark_embed.decode import MAX_PIXELS, open_image
from spark_embed.errors import ImageError
from spark_embed.fetch import FetchPolicy, Reference, make_fetch
from spark_embed.models import Model, Prepared

# So that a long run of bad rows neither piles up nor keeps the good rows before it waiting.
MAX_ROWS_PER_CHUNK = 1024


@dataclass(frozen=True)
class FeedOptions:
    """How one task is fed.

    Attributes:
        batch_size: images in one forward pass.
        n_threads: threads that fetch, decode and prepare beside the forward pass.
        decode_budget_bytes: memory that images being decoded at once may take together.
    """

    batch_size: int = 32
    n_threads: int = 1
    max_pixels: int = MAX_PIXELS
    decode_budget_bytes: int = 512 << 20
    fetch: FetchPolicy = field(default_factory=FetchPolicy)


@dataclass
class Outcomes:
    """The outcomes of consecutive rows.

    Attributes:
        embedding: float32 (n_good, dim): the vectors of the rows without an error, in order.
        errors: one entry per row: None, or why the row has no vector.
        seconds: what these rows cost, by stage; fetch_s and decode_s are thread time, so with several
            threads they may exceed the clock.
    """

    embedding: npt.NDArray[np.float32]
    errors: list[ImageError | None]
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class _Item:
    """One image on its way: what `prepare` gave or why there is none, and what that took."""

    prepared: Prepared = None
    error: ImageError | None = None
    fetch_s: float = 0.0
    decode_s: float = 0.0


class ByteBudget:
    """Memory shared by the decode threads: reserved from the header's size before the pixels exist."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, n_bytes: int) -> Iterator[None]:
        """Wait until `n_bytes` are free; one image larger than the whole budget goes alone."""
        n_bytes = min(n_bytes, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._used + n_bytes <= self._total)
            self._used += n_bytes
        try:
            yield
        finally:
            with self._changed:
                self._used -= n_bytes
                self._changed.notify_all()


def run_feed(references: Iterable[Reference], model: Model, options: FeedOptions) -> Iterator[Outcomes]:
    """Yield the outcome of every reference, in order, in chunks that hold at most one forward pass.

    `references` is read ahead of the forward pass by about two batches, always by the calling thread.
    Batches are `options.batch_size` good images, however the references arrive; smaller are the last
    one, and one that `MAX_ROWS_PER_CHUNK` rows did not fill because nearly all of them were bad.

    Raises:
        Exception: whatever the model raises. Only an `ImageError` from fetch, decode or `prepare`
            becomes an outcome; `predict` names the rows that failed.
    """
    make_item = _item_maker(model, options)
    pool = ThreadPoolExecutor(options.n_threads, thread_name_prefix="decode")
    max_rows = max(MAX_ROWS_PER_CHUNK, options.batch_size)
    ahead = 2 * options.batch_size + options.n_threads
    waiting: deque[Future[_Item]] = deque()
    chunk: list[_Item] = []
    n_good = 0
    wait_s = 0.0
    try:
        source = iter(references)
        exhausted = False
        while waiting or not exhausted:
            while not exhausted and len(waiting) < ahead:
                try:
                    waiting.append(pool.submit(make_item, next(source)))
                except StopIteration:
                    exhausted = True
            if not waiting:
                break
            started = time.perf_counter()
            item = waiting.popleft().result()
            wait_s += time.perf_counter() - started
            chunk.append(item)
            n_good += item.error is None
            if n_good == options.batch_size or len(chunk) == max_rows:
                yield _predict(chunk, model, wait_s)
                chunk, n_good, wait_s = [], 0, 0.0
        if chunk:
            yield _predict(chunk, model, wait_s)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _item_maker(model: Model, options: FeedOptions) -> Callable[[Reference], _Item]:
    """Return what runs on a decode thread: reference -> `_Item`; only an `ImageError` is caught."""
    fetch = make_fetch(options.fetch)
    budget = ByteBudget(options.decode_budget_bytes)

    def make_item(reference: Reference) -> _Item:
        item = _Item()
        started = fetched = time.perf_counter()
        try:
            data = fetch(reference)
            fetched = time.perf_counter()
            image = open_image(data, options.max_pixels)
            with budget.reserve(image.peak_bytes):
                item.prepared = model.prepare(image.decode())
        except ImageError as exc:
            # Not `exc` itself: its traceback would keep the image's bytes and pixels in memory.
            item.error = ImageError(exc.code, exc.detail)
        item.fetch_s = fetched - started
        item.decode_s = time.perf_counter() - fetched
        return item

    return make_item


def _predict(chunk: list[_Item], model: Model, wait_s: float) -> Outcomes:
    """Run the good images of `chunk` through the model and put every row's outcome together."""
    errors = [item.error for item in chunk]
    good = [row for row, error in enumerate(errors) if error is None]
    started = time.perf_counter()
    embedding = np.empty((0, model.embedding_dim), dtype=np.float32)
    if good:
        prediction = model.predict([chunk[row].prepared for row in good])
        embedding = prediction.embedding
        if len(embedding) != len(good):
            raise ValueError(f"predict gave {len(embedding)} vectors for a batch of {len(good)}")
        for index, error in prediction.failures.items():
            errors[good[index]] = error
        if prediction.failures:
            kept = [index for index in range(len(good)) if index not in prediction.failures]
            embedding = embedding[kept]
    return Outcomes(
        embedding,
        errors,
        {
            "fetch_s": sum(item.fetch_s for item in chunk),
            "decode_s": sum(item.decode_s for item in chunk),
            "wait_s": wait_s,
            "predict_s": time.perf_counter() - started,
        },
    )
