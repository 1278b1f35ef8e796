"""The rows of preflight's sample -> as the model prepares them: fetched, decoded, and why others are not.

Knows nothing of what is then compared or timed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np

from spark_embed.errors import ImageError, RowError, StorageError
from spark_embed.inference.decode.isolated import keep_decodable
from spark_embed.inference.feed import FeedOptions, make_decoder
from spark_embed.inference.fetch.read_ahead import Columns, ReadAhead
from spark_embed.inference.fetch.references import Buffer, Reference, make_fetch, make_locate
from spark_embed.inference.preflight.parity import Sampled, prepare_sample
from spark_embed.inference.preflight.sample import SampleRow, read_own_columns
from spark_embed.inference.task import has_failed_before
from spark_embed.models import Inputs, Model, Prepared

MAX_SAMPLE_BYTES = 64 << 20
"""Encoded size beyond which an image is not taken to compare precisions with."""


class UnreachableError(Exception):
    """A worker cannot read where the references point; another transport may do."""


def prepare_rows(
    model: Model,
    sample: Sequence[SampleRow],
    options: FeedOptions,
    errors: list[RowError],
    min_edge: int | None,
) -> Iterator[Sampled]:
    """Yield rows as the model prepares them, and its reference if it has one; `errors` is given the rest."""
    rows = _with_columns(sample, model.takes.columns)
    plain = model.reference
    if plain is not None and model.takes.image:
        images = fetched(rows, options, errors)
        if has_failed_before():
            images = keep_decodable(images, make_decoder(replace(options, isolated=True)))
        yield from prepare_sample(model, images, options.max_pixels, errors, min_edge)
        return
    decoder = make_decoder(replace(options, isolated=options.isolated or has_failed_before()))
    try:
        inputs: Iterable[tuple[Any, Columns]] = fetched(rows, options, errors) if model.takes.image else rows
        for data, columns in inputs:
            started = time.perf_counter()
            try:
                image = decoder.open_image(data).decode() if model.takes.image == "pixels" else data
                given = Inputs(image, None, columns or {})
                prepared = model.prepare(given)
                prepare_s = time.perf_counter() - started
                yield Sampled(prepared, plain.prepare(given) if plain else None, None, prepare_s)
            except RowError as exc:
                errors.append(exc)
    finally:
        decoder.close()


def _with_columns(sample: Sequence[SampleRow], names: Sequence[str]) -> Iterator[tuple[Reference, Columns]]:
    """Yield the sample's references with the values of own columns.

    Raises:
        UnreachableError: this worker cannot read them.
    """
    try:
        columns = list(read_own_columns(sample, names)) if names else repeat(None)
        yield from zip((row.reference for row in sample), columns, strict=False)
    except OSError as exc:
        raise UnreachableError(str(exc)) from exc


def prepare_without_sample(model: Model) -> list[Prepared]:
    """Return what can be timed where no row of the sample can be used: a grey image, for pixels."""
    if model.takes.image != "pixels" or model.takes.columns:
        return []
    return [model.prepare(Inputs(np.full((64, 64, 3), 128, dtype=np.uint8)))]


def _located(
    rows: Iterable[tuple[Reference, Columns]], options: FeedOptions
) -> Iterator[tuple[Reference, Columns]]:
    """Yield the references as `make_locate` has them; those of unreadable shards are left to their waves."""
    locate = make_locate(options.fetch)
    for reference, columns in rows:
        with suppress(StorageError):
            yield locate(reference), columns


def fetched(
    rows: Iterable[tuple[Reference, Columns]], options: FeedOptions, errors: list[RowError]
) -> Iterator[tuple[Buffer, Columns]]:
    """Yield the bytes of the rows that can be fetched; `errors` is given why others cannot."""
    fetch = make_fetch(options.fetch)
    ahead = ReadAhead(_located(rows, options), options.fetch)
    try:
        for row in ahead:
            try:
                data = fetch(row.reference)
                if len(data) <= MAX_SAMPLE_BYTES:
                    yield data, row.columns
            except ImageError as exc:
                errors.append(exc)
    except OSError as exc:
        raise UnreachableError(str(exc)) from exc
    finally:
        ahead.close()
