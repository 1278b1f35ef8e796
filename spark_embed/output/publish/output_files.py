"""Writes the files of a table, one after the other, each of a wanted size.

Runs on executors, with pyarrow; knows no wave and no session.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spark_embed.schema import EMBEDDING_RESULTS, ERROR, Results, error_column, vector_columns
from spark_embed.storage import is_disk_full, make_folder, no_space_error
from spark_embed.storage.staged import StagedFile, stage_file

_ROW_GROUP_BYTES = 64 << 20


@dataclass(frozen=True)
class Target:
    """Where one task's files go.

    Attributes:
        folder: of the files, until they are published.
        place: the folder in which they then appear.
        name: what their names begin with; no other task's do.
        rows_per_file: after which a new file is begun; None: never, and `name` is the one file's.
        metadata: entries of the files' key-value metadata.
        given: what the model gives.
    """

    folder: str
    place: str
    name: str
    rows_per_file: int | None
    metadata: dict[str, str]
    given: Results = EMBEDDING_RESULTS


def _leaf_paths(schema: pa.Schema) -> list[str]:
    """Return the paths of the parquet columns that hold `schema`, as the writer calls them."""
    buffer = io.BytesIO()
    pq.ParquetWriter(buffer, schema).close()
    columns = pq.ParquetFile(buffer).schema
    return [columns.column(index).path for index in range(len(columns))]


class OutputFiles:
    """The files of one kind that a task writes, one after the other, as a context.

    Attributes:
        written: what there is once the context has ended: for each file `name`, `n_rows`, `n_bytes`,
            `n_errors_by_code` and, of several results, `n_errors_by_result`; of no rows at all one file, for
            its columns.
            its columns.
    """

    def __init__(self, target: Target) -> None:
        self.written: list[dict[str, Any]] = []
        self._target = target
        self._pending: list[pa.RecordBatch] = []
        self._writer: pq.ParquetWriter | None = None
        self._staged: StagedFile | None = None
        self._n_rows = 0
        self._codes = Counter[tuple[str, str]]()

    def __enter__(self) -> OutputFiles:
        make_folder(self._target.folder)
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows, to the next file where this one is full.

        Raises:
            StorageError: the disk is full.
        """
        self._schema = batch.schema
        limit = self._target.rows_per_file
        while batch.num_rows:
            rows = batch if limit is None else batch.slice(0, limit - self._n_rows)
            batch = batch.slice(rows.num_rows)
            self._pending.append(rows)
            self._n_rows += rows.num_rows
            if self._n_rows == limit:
                self._finish_file()
            elif sum(pending.nbytes for pending in self._pending) >= _ROW_GROUP_BYTES:
                self._write_row_group()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            if self._n_rows or not self.written:
                self._finish_file()
        elif self._staged is not None:
            with suppress(OSError, pa.ArrowException):
                if self._writer is not None:
                    self._writer.close()
            self._staged.discard()

    @property
    def _name(self) -> str:
        if self._target.rows_per_file is None:
            return self._target.name
        return f"{self._target.name}-{len(self.written):03d}.parquet"

    def _write_row_group(self) -> None:
        try:
            if self._staged is None:
                paths = (
                    os.path.join(folder, self._name) for folder in (self._target.folder, self._target.place)
                )
                self._staged = stage_file(*paths)
            if self._writer is None:
                schema = self._schema.with_metadata(self._target.metadata)
                vectors = vector_columns(self._target.given)
                others = [path for path in _leaf_paths(schema) if path.split(".")[0] not in vectors]
                # A dictionary of floats is wasted work: hardly two are equal. So are their extremes.
                self._writer = pq.ParquetWriter(
                    self._staged.sink,
                    schema,
                    use_dictionary=others,
                    write_statistics=others,
                    write_page_checksum=True,  # so that spark-embed verify sees a flipped bit
                )
            if self._pending:
                table = pa.Table.from_batches(self._pending, self._schema)
                self._writer.write_table(table, row_group_size=max(1, table.num_rows))
                self._count_codes(table)
        except OSError as exc:
            raise self._failed(exc) from exc
        self._pending = []

    def _finish_file(self) -> None:
        self._write_row_group()
        assert self._writer is not None  # noqa: S101  for mypy
        assert self._staged is not None  # noqa: S101
        try:
            self._writer.close()
            n_bytes = self._staged.finish()
        except OSError as exc:
            raise self._failed(exc) from exc
        record = {"name": self._name, "n_rows": self._n_rows, "n_bytes": n_bytes}
        by_column: dict[str, dict[str, int]] = {}
        for (column, code), number in self._codes.items():
            by_column.setdefault(column, {})[code] = number
        by_code = by_column.pop(ERROR, {})
        self.written.append({**record, "n_errors_by_code": by_code})
        if by_column:
            self.written[-1]["n_errors_by_result"] = by_column
        self._writer, self._staged, self._n_rows = None, None, 0
        self._codes.clear()

    def _count_codes(self, table: pa.Table) -> None:
        names = {ERROR: ERROR, **{error_column(one.name): one.name for one in self._target.given}}
        for column, called in names.items():
            if column in table.column_names:
                for row in pc.value_counts(table[column].combine_chunks().drop_null()).to_pylist():
                    self._codes[called, row["values"]] += row["counts"]

    def _failed(self, exc: OSError) -> Exception:
        """Return what to raise: a full disk is told, and not tried again and again."""
        n_bytes = sum(batch.nbytes for batch in self._pending)
        return no_space_error(self._target.folder, n_bytes) if is_disk_full(exc) else exc
