"""The loop inside one task: fetch, decode and prepare ahead on threads, batch, predict, time each part.

Knows no Spark: references come in, outcomes go out, one for each, in order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from spark_embed.errors import ImageError
from spark_embed.inference.decode import MAX_PIXELS, Decoder, InProcessDecoder
from spark_embed.inference.decode.isolated import IsolatedDecoder
from spark_embed.inference.decode.pool import ByteBudget, DecodePool, Job
from spark_embed.inference.fetch.read_ahead import ReadAhead, Row
from spark_embed.inference.fetch.references import FetchPolicy, Reference, make_fetch, make_locate
from spark_embed.models import Model, Prepared

# So that a long run of bad rows neither piles up nor keeps the good rows before it waiting.
MAX_ROWS_PER_CHUNK = 1024

DEFAULT_BATCH_SIZE = 32

STAGES = ("read_s", "download_s", "download_wait_s", "fetch_s", "decode_s", "wait_s", "predict_s")
"""Seconds of a chunk. On the task's own thread: reading references (and image columns, by reference), waiting
for downloads while nothing else kept the decode threads busy, waiting for a prepared image, predicting. Added
up over the decode threads: fetching files, decoding and preparing; over the downloads: `download_s`."""


@dataclass(frozen=True)
class FeedOptions:
    """How one task is fed.

    Attributes:
        batch_size: images in one forward pass.
        n_threads: threads that fetch, decode and prepare beside the forward pass.
        decode_budget_bytes: memory that images being decoded at once may take together.
        decode_timeout_s: seconds after which an image is given up; None for no limit.
        allow_truncated: decode truncated images as far as they go.
        isolated: decode in child processes, one for each thread, because a decoder may crash.
    """

    batch_size: int = DEFAULT_BATCH_SIZE
    n_threads: int = 1
    max_pixels: int = MAX_PIXELS
    decode_budget_bytes: int = 512 << 20
    decode_timeout_s: float | None = None
    allow_truncated: bool = False
    isolated: bool = False
    fetch: FetchPolicy = field(default_factory=FetchPolicy)


@dataclass
class Outcomes:
    """The outcomes of consecutive rows.

    Attributes:
        embedding: float32 (n_good, dim): the vectors of the rows without an error, in order.
        errors: one entry per row: None, or why the row has no vector.
        seconds: what these rows cost, by stage; fetch_s and decode_s are thread time and downloads
            overlap, so they may exceed the clock.
        batch_limit: see `Prediction.batch_limit`.
    """

    embedding: npt.NDArray[np.float32]
    errors: list[ImageError | None]
    seconds: dict[str, float] = field(default_factory=dict)
    batch_limit: int | None = None


@dataclass
class _Item:
    """One image on its way: what `prepare` gave or why there is none, and what that took."""

    prepared: Prepared = None
    error: ImageError | None = None
    download_s: float = 0.0
    fetch_s: float = 0.0
    decode_s: float = 0.0


def run_feed(references: Iterable[Reference], model: Model, options: FeedOptions) -> Iterator[Outcomes]:
    """Yield the outcome of every reference, in order, in chunks that hold at most one forward pass.

    `references` is read ahead of the forward pass by about two batches, and further where urls have to be
    downloaded; always by the calling thread.
    Batches are `options.batch_size` good images, however the references arrive; smaller are the last
    one, and one that `MAX_ROWS_PER_CHUNK` rows did not fill because nearly all of them were bad.

    Raises:
        Exception: whatever the model raises. Only an `ImageError` from fetch, decode or `prepare`
            becomes an outcome; `predict` names the rows that failed.
    """
    decoder = make_decoder(options)
    # A child keeps the time itself, and no thread is lost with it.
    limit_s = None if options.isolated else options.decode_timeout_s
    pool = DecodePool(_item_maker(model, options, decoder), _timed_out, options.n_threads, limit_s)
    rows = ReadAhead(map(make_locate(options.fetch), references), options.fetch)
    max_rows = max(MAX_ROWS_PER_CHUNK, options.batch_size)
    chunk = _Chunk()
    items = _iterate_items(rows, pool, options, lambda stage: chunk.lap(stage))
    try:
        for item in items:
            chunk.add(item)
            if chunk.n_good == options.batch_size or len(chunk.items) == max_rows:
                yield _predict(chunk, model)
                chunk = _Chunk()
        if chunk.items:
            yield _predict(chunk, model)
    finally:
        decoder.close()
        rows.close()
        pool.close()


def _iterate_items(
    rows: ReadAhead, pool: DecodePool[Row, _Item], options: FeedOptions, lap: Callable[[str], None]
) -> Iterator[_Item]:
    """Yield what every row gave, in order; keep the pool supplied; say what the time went to."""
    ahead = 2 * options.batch_size + options.n_threads
    waiting: deque[Job[Row, _Item]] = deque()
    while True:
        while len(waiting) < ahead and (row := rows.next()) is not None:
            waiting.append(pool.submit(row))
        lap("read_s")
        if waiting:
            # Downloads are what is waited for, too, where they leave decode threads without work.
            starved = len(waiting) <= options.n_threads and rows.is_downloading
            job = waiting.popleft()
            item = pool.result(job)
            rows.release(job.given)
            lap("download_wait_s" if starved else "wait_s")
            yield item
        elif rows.is_exhausted:
            return
        else:
            rows.wait()
            lap("download_wait_s")


class _Chunk:
    """The rows that go into one forward pass, and what they have cost so far."""

    def __init__(self) -> None:
        self.items: list[_Item] = []
        self.n_good = 0
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lap_started = time.perf_counter()

    def add(self, item: _Item) -> None:
        self.items.append(item)
        self.n_good += item.error is None
        self.seconds["download_s"] += item.download_s
        self.seconds["fetch_s"] += item.fetch_s
        self.seconds["decode_s"] += item.decode_s

    def lap(self, stage: str) -> None:
        """Add the time since the last lap, or since the chunk was made, to a stage."""
        now = time.perf_counter()
        self.seconds[stage] += now - self._lap_started
        self._lap_started = now


def _timed_out(error: ImageError) -> _Item:
    return _Item(error=error)


def make_decoder(options: FeedOptions) -> Decoder:
    """Return what decodes a task's images; it must be closed."""
    if options.isolated:
        return IsolatedDecoder(options.max_pixels, options.allow_truncated, options.decode_timeout_s)
    return InProcessDecoder(options.max_pixels, options.allow_truncated)


def _item_maker(model: Model, options: FeedOptions, decoder: Decoder) -> Callable[[Job[Row, _Item]], _Item]:
    """Return what runs on a decode thread: row -> `_Item`; only an `ImageError` is caught."""
    fetch = make_fetch(options.fetch)
    budget = ByteBudget(options.decode_budget_bytes)

    def make_item(job: Job[Row, _Item]) -> _Item:
        row = job.given
        item = _Item(error=row.error, download_s=row.download_s)
        if row.error is not None:
            return item
        started = fetched = time.perf_counter()
        try:
            data = fetch(row.reference)
            fetched = time.perf_counter()
            with job.decoding(budget, 0):  # only for the time limit: some headers take as long as pixels
                image = decoder.open_image(data)
            with job.decoding(budget, image.peak_bytes):
                item.prepared = model.prepare(image.decode())
        except ImageError as exc:
            # Not `exc` itself: its traceback would keep the image's bytes and pixels in memory.
            item.error = ImageError(exc.code, exc.detail)
        item.fetch_s = fetched - started
        item.decode_s = time.perf_counter() - fetched
        return item

    return make_item


def _predict(chunk: _Chunk, model: Model) -> Outcomes:
    """Run the good images of `chunk` through the model and put every row's outcome together."""
    errors = [item.error for item in chunk.items]
    good = [row for row, error in enumerate(errors) if error is None]
    embedding = np.empty((0, model.embedding_dim), dtype=np.float32)
    batch_limit = None
    if good:
        prediction = model.predict([chunk.items[row].prepared for row in good])
        chunk.lap("predict_s")
        batch_limit = prediction.batch_limit
        embedding = prediction.embedding
        if len(embedding) != len(good):
            raise ValueError(f"predict gave {len(embedding)} vectors for a batch of {len(good)}")
        for index, error in prediction.failures.items():
            errors[good[index]] = error
        if prediction.failures:
            kept = [index for index in range(len(good)) if index not in prediction.failures]
            embedding = embedding[kept]
    return Outcomes(embedding, errors, chunk.seconds, batch_limit)
