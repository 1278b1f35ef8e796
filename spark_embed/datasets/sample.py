"""A few rows out of a data set, found by the driver: preflight needs no Spark job to read them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any

import pyarrow.parquet as pq

from spark_embed.datasets.shards import Shard
from spark_embed.errors import StorageError
from spark_embed.inference.fetch.references import Reference
from spark_embed.inference.fetch.rows import RowReader
from spark_embed.inference.preflight.sample import SampleRow
from spark_embed.storage import file_version, joined_path, parquet_input, spark_path, spark_uri, stat

_SAMPLED_SHARDS = 4


def sample_rows(
    folder: str, shards: Sequence[Shard], column: str, transport: str, n_rows: int
) -> list[SampleRow]:
    """Return some `n_rows` rows, references as `transport` has them: the first ones of a few shards.

    Without a `column` of images they refer to nothing.

    The shards are spread over the data set and take turns, so that the first few rows come from all. One
    that cannot be read gives none: that is its wave's to say.
    """
    filled = [shard for shard in shards if shard.n_rows]
    n_shards = min(len(filled), _SAMPLED_SHARDS)
    chosen = [filled[index * len(filled) // n_shards] for index in range(n_shards)]
    reader = RowReader(column)
    parts = []
    for shard in chosen:
        wanted = range(min(shard.n_rows, math.ceil(n_rows / n_shards)))
        path = os.path.join(folder, shard.path)
        with suppress(OSError, StorageError):
            if not column:
                references = [Reference()] * len(wanted)
            elif transport == "index":
                references = _indexed(path, column, len(wanted))
            else:
                status = stat(path)
                version = file_version(status.n_bytes, status.modified_ns)
                references = [Reference(file=spark_uri(path), row=row, version=version) for row in wanted]
                references = [resolved(reference, reader, transport) for reference in references]
            parts.append([SampleRow(reference, path, row) for row, reference in enumerate(references)])
    return [row for row in chain.from_iterable(zip_longest(*parts)) if row]


def _indexed(path: str, column: str, n_rows: int) -> list[Reference]:
    """Return the first references of a file of an index."""
    with pq.ParquetFile(parquet_input(path)) as file:
        batch = next(file.iter_batches(n_rows, columns=[column]))
    return [indexed(place, path) for place in batch.column(0).to_pylist()[:n_rows]]


def indexed(place: Mapping[str, Any], path: str) -> Reference:
    """Return the reference that a row of a file of an index is.

    Args:
        place: its value in the image column.
        path: of the file.
    """
    found = Reference(**{name: _as_text(value) for name, value in place.items()})
    return found._replace(file=joined_path(os.path.dirname(path), found.file)) if found.file else found


def _as_text(value: Any) -> Any:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def resolved(reference: Reference, reader: RowReader, transport: str) -> Reference:
    """Return the reference as Spark makes it: with what the row says, unless the worker is to read that."""
    if transport == "reference":
        return reference
    path = spark_path(reference.file or "")
    data, uri = reader.read(reference.file or "", reference.row or 0, reference.version or "")
    if transport == "uri":
        data, uri = None, bytes(data).decode(errors="surrogateescape") if data is not None else None
    if data is not None:
        return Reference(inline=bytes(data))
    return Reference(uri=uri, base=os.path.dirname(path)) if uri else Reference()
