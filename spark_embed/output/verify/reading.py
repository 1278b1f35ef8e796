"""Parquet files in batches of bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.storage import parquet_input, rows_per_batch

_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 1 << 16
_BUFFER_BYTES = 1 << 20  # else a column of a row group is read at once

UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError)
"""What reading a damaged file raises."""


def open_parquet(path: str) -> pq.ParquetFile:
    """Open a parquet file.

    Raises:
        OSError, pa.ArrowException, UnicodeDecodeError: it cannot be read.
    """
    return pq.ParquetFile(
        parquet_input(path), buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
    )


def iter_batches(file: pq.ParquetFile, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file, or some columns of them, in batches of bounded memory.

    Raises:
        OSError, pa.ArrowException, UnicodeDecodeError: it cannot be read.
    """
    n_rows = rows_per_batch(file, _BATCH_BYTES, _BATCH_ROWS)
    for batch in file.iter_batches(n_rows, columns=columns, use_threads=False):  # each file has a thread
        batch.validate(full=True)  # text that is no UTF-8 would be seen too late
        yield batch


def read_columns(paths: Iterable[str], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield some columns of files, one after the other, as far as they can be read."""
    for path in paths:
        with suppress(*UNREADABLE), open_parquet(path) as file:
            yield from iter_batches(file, columns)


def first_line(exc: BaseException) -> str:
    """Return what an exception says, in one line."""
    return (str(exc).splitlines() or [type(exc).__name__])[0]
