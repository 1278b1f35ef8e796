"""Files of a wave -> files of the output: good rows with their vectors, bad ones with their errors.

Runs on executors, with pyarrow: Spark would take every vector apart and put it together again. Knows no
session and no folder's meaning.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spark_embed.arrow import unpack_vectors
from spark_embed.schema import EMBEDDING, ERROR, ERROR_DETAIL, RESULT

_BATCH_BYTES = 16 << 20
_ROW_GROUP_BYTES = 64 << 20


@dataclass(frozen=True)
class Merge:
    """What one task makes of some files of a wave.

    Attributes:
        sources: the files, in order.
        embeddings: folder of the files with good rows.
        errors: folder of the files with bad rows.
        name: what its files' names begin with; no other task's do.
        rows_per_file: after which a new file is begun.
        metadata: entries of the files' key-value metadata, for (embeddings, errors).
        keep_empty: write a file of each kind even if it has no row.
    """

    sources: tuple[str, ...]
    embeddings: str
    errors: str
    name: str
    rows_per_file: int
    metadata: tuple[dict[str, str], dict[str, str]]
    keep_empty: bool


def merge_files(merge: Merge) -> None:
    """Write the rows of `merge.sources` to the two folders.

    A file appears under its name when it is whole; a second attempt writes the same files again.

    Raises:
        OSError, pa.ArrowException: a file cannot be read or written.
    """
    with ExitStack() as stack:
        good, bad = (
            stack.enter_context(_Files(folder, merge, metadata))
            for folder, metadata in zip((merge.embeddings, merge.errors), merge.metadata, strict=True)
        )
        for batch in _read(merge.sources):
            result = batch.column(RESULT)
            is_bad = pc.is_valid(result.field(ERROR))
            good.write(_with_vectors(batch.filter(pc.invert(is_bad)) if pc.any(is_bad).as_py() else batch))
            bad.write(_with_errors(batch.filter(is_bad)))


def _read(paths: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the files in batches; of each file an empty one at least, for its columns."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            footer = file.metadata
            n_bytes = sum(footer.row_group(index).total_byte_size for index in range(footer.num_row_groups))
            row_bytes = max(1, n_bytes // max(footer.num_rows, 1))
            yield pa.RecordBatch.from_pylist([], schema=file.schema_arrow)
            yield from file.iter_batches(max(1, _BATCH_BYTES // row_bytes))


def _with_vectors(batch: pa.RecordBatch) -> pa.RecordBatch:
    return _replaced(batch, {EMBEDDING: unpack_vectors(batch.column(RESULT).field(EMBEDDING))})


def _with_errors(batch: pa.RecordBatch) -> pa.RecordBatch:
    result = batch.column(RESULT)
    return _replaced(batch, {name: result.field(name) for name in (ERROR, ERROR_DETAIL)})


def _replaced(batch: pa.RecordBatch, columns: dict[str, pa.Array]) -> pa.RecordBatch:
    own = {
        name: column for name, column in zip(batch.schema.names, batch.columns, strict=True) if name != RESULT
    }
    fields = [batch.schema.field(name) for name in own]
    fields += [pa.field(name, column.type) for name, column in columns.items()]
    return pa.RecordBatch.from_arrays([*own.values(), *columns.values()], schema=pa.schema(fields))


def _leaf_paths(schema: pa.Schema) -> list[str]:
    """Return the paths of the parquet columns that hold `schema`, as the writer calls them."""
    buffer = io.BytesIO()
    pq.ParquetWriter(buffer, schema).close()
    columns = pq.ParquetFile(buffer).schema
    return [columns.column(index).path for index in range(len(columns))]


class _Files:
    """The files of one kind that a merge writes, one after the other, as a context."""

    def __init__(self, folder: str, merge: Merge, metadata: dict[str, str]) -> None:
        self._folder, self._merge, self._metadata = folder, merge, metadata
        self._pending: list[pa.RecordBatch] = []
        self._writer: pq.ParquetWriter | None = None
        self._n_files = self._n_rows = 0

    def __enter__(self) -> _Files:
        os.makedirs(self._folder, exist_ok=True)
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows, to the next file where this one is full."""
        self._schema = batch.schema
        while batch.num_rows:
            rows = batch.slice(0, self._merge.rows_per_file - self._n_rows)
            batch = batch.slice(rows.num_rows)
            self._pending.append(rows)
            self._n_rows += rows.num_rows
            if self._n_rows == self._merge.rows_per_file:
                self._finish_file()
            elif sum(pending.nbytes for pending in self._pending) >= _ROW_GROUP_BYTES:
                self._write_row_group()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            if self._n_rows or (self._merge.keep_empty and not self._n_files):
                self._finish_file()
        elif self._writer is not None:
            with suppress(OSError, pa.ArrowException):
                self._writer.close()
            with suppress(OSError):
                os.unlink(self._path(".tmp"))

    def _path(self, suffix: str = "") -> str:
        hidden = "." if suffix else ""
        name = f"{hidden}{self._merge.name}-{self._n_files:03d}.parquet{suffix}"
        return os.path.join(self._folder, name)

    def _write_row_group(self) -> None:
        if self._writer is None:
            schema = self._schema.with_metadata(self._metadata)
            numbers = [path for path in _leaf_paths(schema) if path.split(".")[0] != EMBEDDING]
            # A dictionary of floats is wasted work: hardly two are equal. So are their extremes.
            self._writer = pq.ParquetWriter(
                self._path(".tmp"), schema, use_dictionary=numbers, write_statistics=numbers
            )
        if self._pending:
            table = pa.Table.from_batches(self._pending, self._schema)
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self._pending = []

    def _finish_file(self) -> None:
        self._write_row_group()
        if self._writer is not None:
            self._writer.close()
            os.replace(self._path(".tmp"), self._path())
        self._writer, self._n_rows = None, 0
        self._n_files += 1
