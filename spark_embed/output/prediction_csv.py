"""Published predictions and errors -> one CSV file with a row for each row of the input, in its order.

Reads the published files a slab of rows at a time, so its memory is the same for any table.
"""

from __future__ import annotations

import csv
import io
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from spark_embed.errors import StorageError, one_line
from spark_embed.output.folder import Output
from spark_embed.output.records import Ledger
from spark_embed.schema import ERROR, ERROR_DETAIL, SHARD, SHARD_ROW
from spark_embed.storage import parquet_input, replaced_file

_SLAB_ROWS = 400_000
_CACHED_GROUPS = 4
_STRUCTURAL = r'[",\r\n]'


@dataclass(frozen=True)
class _Group:
    """A row group of a published file; its rows are of shards `first[0]` to `last[0]`, as statistics say."""

    path: str
    number: int
    shards: tuple[str, str] | None
    rows: tuple[int, int] | None

    def may_hold(self, shard: str, first: int, end: int) -> bool:
        """Say whether some of the rows of a shard may be here."""
        if self.shards and not self.shards[0] <= shard <= self.shards[1]:
            return False
        return not self.rows or (self.rows[0] < end and self.rows[1] >= first)


class _Groups:
    """The row groups of the published files, of which the last few stay in memory."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._cache: OrderedDict[_Group, pa.Table] = OrderedDict()
        self._groups = [group for path in paths for group in _list_groups(path)]

    def read(self, shard: str, first: int, end: int) -> Iterator[pa.Table]:
        """Yield the rows of a shard from `first` to before `end`, in any order."""
        for group in self._groups:
            if group.may_hold(shard, first, end):
                table = self._table(group)
                rows = table[SHARD_ROW]
                is_here = pc.and_(pc.greater_equal(rows, first), pc.less(rows, end))
                yield table.filter(pc.and_(is_here, pc.equal(table[SHARD], shard)))

    def _table(self, group: _Group) -> pa.Table:
        if group not in self._cache:
            while len(self._cache) >= _CACHED_GROUPS:
                self._cache.popitem(last=False)
            with pq.ParquetFile(parquet_input(group.path)) as file:
                self._cache[group] = file.read_row_group(group.number)
        self._cache.move_to_end(group)
        return self._cache[group]


def _list_groups(path: str) -> Iterator[_Group]:
    with pq.ParquetFile(parquet_input(path)) as file:
        names = file.schema_arrow.names
        places = [_leaf(file, name) for name in (SHARD, SHARD_ROW) if name in names]
        for number in range(file.metadata.num_row_groups):
            columns = [file.metadata.row_group(number).column(place) for place in places]
            shards, rows = (
                (one.statistics.min, one.statistics.max)
                if one.is_stats_set and one.statistics.has_min_max
                else None
                for one in columns
            )
            yield _Group(path, number, shards, rows)


def _leaf(file: pq.ParquetFile, name: str) -> int:
    """Return the place of a column among the leaves: a list before it has one of another name."""
    schema = file.schema
    return next(place for place in range(len(schema)) if schema.column(place).path == name)


def write_prediction_csv(output: Output, ledger: Ledger, path: str) -> int:
    """Write the file; returns its rows. The columns are those of the table without the rows' places.

    Behind them are the error's code and detail, empty in rows with a prediction.

    Raises:
        StorageError: it cannot be written, or a published row is not where it should be.
    """
    paths = [output.data_path(kind, file.name) for kind, files in ledger.tables for file in files]
    n_written = 0
    try:
        names, schema = _columns(paths)
        groups = _Groups(paths)
        with replaced_file(path) as staged, pa.OSFile(staged, "wb") as sink:
            sink.write(csv_header(names))
            for shard, state in sorted(ledger.shards.items()):
                for first, n_rows in state.ranges:
                    for start in range(first, first + n_rows, _SLAB_ROWS):
                        end = min(start + _SLAB_ROWS, first + n_rows)
                        n_written += _write_slab(sink, groups.read(shard, start, end), schema, end - start)
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{path}: cannot be written: {one_line(exc)}") from exc
    return n_written


def _columns(paths: Sequence[str]) -> tuple[list[str], pa.Schema]:
    """Return the names of the file's columns, and the schema of a slab with all columns of both tables."""
    schema = pa.unify_schemas(
        [pq.read_schema(parquet_input(path)).remove_metadata() for path in paths], promote_options="default"
    )
    kept = [field for field in schema if field.name not in (SHARD, SHARD_ROW, ERROR, ERROR_DETAIL)]
    kept += [pa.field(name, pa.string()) for name in (ERROR, ERROR_DETAIL)]
    return [field.name for field in kept], pa.schema([*kept, pa.field(SHARD_ROW, pa.int64())])


def csv_header(names: Sequence[str]) -> bytes:
    """Return the first line of a file with these columns."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(names)
    return text.getvalue().encode()


def _write_slab(sink: pa.NativeFile, parts: Iterator[pa.Table], schema: pa.Schema, n_rows: int) -> int:
    tables = [_completed(part, schema) for part in parts if len(part)]
    table = pa.concat_tables(tables) if tables else schema.empty_table()
    if len(table) != n_rows:
        raise StorageError(
            f"{n_rows:,} rows are published, and {len(table):,} of them are there; verify says which"
        )
    order = pc.sort_indices(table, [(SHARD_ROW, "ascending")])
    write_csv_rows(table.take(order).drop_columns([SHARD_ROW]), sink)
    return n_rows


def _completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with all columns of a schema, nulls for those that it lacks."""
    names = table.column_names
    columns = [
        table[field.name] if field.name in names else pa.nulls(len(table), field.type) for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def write_csv_rows(table: pa.Table, sink: pa.NativeFile) -> None:
    """Write rows without a header; texts in quotes only in parts that need some."""
    columns = [_as_text(column) if pa.types.is_list(column.type) else column for column in table.columns]
    table = pa.Table.from_arrays(columns, names=table.column_names)
    texts = [column for column in table.columns if _is_text(column.type)]
    needs_quotes = any(pc.any(pc.match_substring_regex(text, _STRUCTURAL)).as_py() for text in texts)
    options = pyarrow.csv.WriteOptions(
        include_header=False, quoting_style="needed" if needs_quotes else "none", batch_size=16_384
    )
    pyarrow.csv.write_csv(table, sink, options)


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _as_text(lists: pa.ChunkedArray) -> pa.Array:
    """Return lists of numbers as JSON has them."""
    whole = lists.combine_chunks()
    texts = pa.ListArray.from_arrays(whole.offsets, whole.values.cast(pa.string()), mask=whole.is_null())
    return pc.binary_join_element_wise("[", pc.binary_join(texts, ","), "]", "")
