"""The loop inside one task: fetch, decode and prepare ahead on threads, batch, predict, time each part.

Knows no Spark and no kind of model: references come in, outcomes go out, one for each, in order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from spark_embed.errors import ImageError
from spark_embed.inference.decode import MAX_PIXELS, Buffer, Decoder, InProcessDecoder
from spark_embed.inference.decode.isolated import IsolatedDecoder
from spark_embed.inference.decode.pool import DecodeMemory, DecodePool, Job
from spark_embed.inference.fetch.read_ahead import Columns, ReadAhead, Row
from spark_embed.inference.fetch.references import FetchPolicy, Reference, make_fetch, make_locate
from spark_embed.inference.row import Item, Outcomes, make_item, predict_items, prepare_item
from spark_embed.models import Inputs, Model

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
        decode_memory_bytes: memory that images being decoded at once may take together.
        decode_timeout_s: seconds after which an image is given up; None for no limit.
        allow_truncated: decode truncated images as far as they go.
        isolated: decode in child processes, one for each thread, because a decoder may crash.
        min_edge: decode JPEGs at 1/2, 1/4 or 1/8 where that leaves their shorter side so many pixels; None
            for never, as it must be for a model that does not say to what it resizes (`Takes.edge`).
    """

    batch_size: int = DEFAULT_BATCH_SIZE
    n_threads: int = 1
    max_pixels: int = MAX_PIXELS
    decode_memory_bytes: int = 512 << 20
    decode_timeout_s: float | None = None
    allow_truncated: bool = False
    isolated: bool = False
    min_edge: int | None = None
    fetch: FetchPolicy = field(default_factory=FetchPolicy)


def run_feed(
    rows: Iterable[tuple[Reference, Columns]], model: Model, options: FeedOptions
) -> Iterator[Outcomes]:
    """Yield the outcome of every row, in order, in chunks that hold at most one forward pass.

    `rows` are read ahead of the forward pass by about two batches, and further where urls have to be
    downloaded, or the model asks for it (`Takes.ahead`); always by the calling thread.
    Batches are `options.batch_size` good rows, however they arrive; smaller are the last
    one, and one that `MAX_ROWS_PER_CHUNK` rows did not fill because nearly all of them were bad.

    Raises:
        Exception: whatever the model raises. Only a `RowError` from fetch, decode or `prepare`
            becomes an outcome; `predict` names the rows that failed.
    """
    decoder = make_decoder(options)
    # A child keeps the time itself, and no thread is lost with it.
    limit_s = None if options.isolated else options.decode_timeout_s
    make_item = _item_maker(model, options, decoder)
    pool = DecodePool(make_item, _timeout_maker(model), options.n_threads, limit_s)
    ahead = ReadAhead(_located(rows, model, options.fetch), options.fetch)
    max_rows = max(MAX_ROWS_PER_CHUNK, options.batch_size)
    chunk = _Chunk()
    n_ahead = max(2 * options.batch_size + options.n_threads, model.takes.ahead)
    items = _iterate_items(ahead, pool, options.n_threads, n_ahead, lambda stage: chunk.lap(stage))
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
        ahead.close()
        pool.close()


def _located(
    rows: Iterable[tuple[Reference, Columns]], model: Model, policy: FetchPolicy
) -> Iterator[tuple[Reference, Columns]]:
    """Yield the rows with references as `make_locate` has them; for a model without images with none."""
    if model.takes.image is None:
        return ((Reference(), columns) for _, columns in rows)
    locate = make_locate(policy)
    return ((locate(reference), columns) for reference, columns in rows)


def _iterate_items(
    rows: ReadAhead, pool: DecodePool[Row, Item], n_threads: int, ahead: int, lap: Callable[[str], None]
) -> Iterator[Item]:
    """Yield what every row gave, in order; keep the pool supplied; say what the time went to."""
    waiting: deque[Job[Row, Item]] = deque()
    while True:
        while len(waiting) < ahead and (row := rows.next()) is not None:
            waiting.append(pool.submit(row))
        lap("read_s")
        if waiting:
            # Downloads are what is waited for, too, where they leave decode threads without work.
            starved = len(waiting) <= n_threads and rows.is_downloading
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
        self.items: list[Item] = []
        self.n_good = 0
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lap_started = time.perf_counter()

    def add(self, item: Item) -> None:
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


def make_decoder(options: FeedOptions) -> Decoder:
    """Return what decodes a task's images; it must be closed."""
    if options.isolated:
        limit_s = options.decode_timeout_s
        return IsolatedDecoder(options.max_pixels, options.allow_truncated, limit_s, options.min_edge)
    return InProcessDecoder(options.max_pixels, options.allow_truncated, options.min_edge)


def _item_maker(model: Model, options: FeedOptions, decoder: Decoder) -> Callable[[Job[Row, Item]], Item]:
    """Return what runs on a decode thread: row -> `Item`; only a `RowError` is caught."""
    fetch = make_fetch(options.fetch)
    memory = DecodeMemory(options.decode_memory_bytes)

    def make(job: Job[Row, Item]) -> Item:
        row = job.given

        def fetched() -> Buffer:
            if row.error is not None:
                raise row.error
            return fetch(row.reference)

        item = make_item(model, fetched, row.columns, decoder, partial(job.decoding, memory))
        item.download_s = row.download_s
        return item

    return make


def _timeout_maker(model: Model) -> Callable[[Row, ImageError], Item]:
    """Return what makes the `Item` of a row whose image took too long."""

    def make_item(row: Row, error: ImageError) -> Item:
        item = Item(download_s=row.download_s)
        prepare_item(item, model, Inputs(None, error, row.columns or {}))
        return item

    return make_item


def _predict(chunk: _Chunk, model: Model) -> Outcomes:
    """Run the good rows of `chunk` through the model, and say what they cost."""
    outcomes = predict_items(chunk.items, model)
    if chunk.n_good:
        chunk.lap("predict_s")
    outcomes.seconds = chunk.seconds
    return outcomes
