"""The rows that preflight tries: where their images are, and what their own columns hold; knows no Spark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.inference.fetch.references import Reference
from spark_embed.storage import parquet_input


class SampleRow(NamedTuple):
    """A row near the beginning of a parquet file, of the data set or of its index."""

    reference: Reference
    path: str
    row: int


def read_own_columns(rows: Sequence[SampleRow], names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the values of own columns for each row: null what its file does not have. Runs in the worker.

    Raises:
        OSError: a file cannot be read from here.
    """
    read: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row.path not in read:
            n_rows = 1 + max(one.row for one in rows if one.path == row.path)
            read[row.path] = _read_first(row.path, n_rows, names)
        yield {**dict.fromkeys(names), **read[row.path][row.row]}


def _read_first(path: str, n_rows: int, names: Sequence[str]) -> list[dict[str, Any]]:
    try:
        with pq.ParquetFile(parquet_input(path)) as file:
            there = [name for name in names if name in file.schema_arrow.names]
            batch = next(file.iter_batches(n_rows, columns=there)) if there else None
    except pa.ArrowException as exc:
        raise OSError(f"{path}: {exc}") from exc
    found = batch.to_pylist() if batch else []
    return found + [{}] * (n_rows - len(found))
