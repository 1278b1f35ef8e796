"""CSV, TSV and JSONL tables as columns of text, some of them, and of each row that is none, why.

Fast, by Arrow's reader, and with a row out for each row in; knows no model, no images and no Spark.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from spark_embed.datasets.delimited import NONE, STANDARD, Header, QuotingError, find_header, rows_of
from spark_embed.datasets.lists import (
    GZIP,
    NOT_READABLE,
    UTF_16,
    as_text,
    begins_with,
    head_of,
    is_json,
    lines_of,
    open_text,
    usual_delimiter,
)
from spark_embed.errors import ConfigError, StorageError, one_line
from spark_embed.schema import FAULT
from spark_embed.storage import open_binary

WRONG_FIELD_COUNT = "wrong_field_count"
NOT_AN_OBJECT = "not_an_object"

_BLOCK_BYTES = 8 << 20
"""A row must fit in; memory is some times as much."""

_JSON_ROWS = 20_000
_SHOWN_CHARS = 80


def check_columns(path: str, wanted: Sequence[str]) -> None:
    """See whether a table has the columns, by its first lines.

    Raises:
        ConfigError: it lacks one, or has one twice, or a quote of its header is not closed.
        StorageError: it cannot be read.
    """
    try:
        with open_text(path, errors="replace") as file:
            head = head_of(file)
        if not is_json(path):
            _check_names(path, find_header(head, wanted[0], usual_delimiter(path)).names, wanted)
            return
        names: dict[str, None] = {}
        for line in head:
            if isinstance(row := _parsed(line), dict):
                names.update(dict.fromkeys(row))
        if names:
            _check_names(path, list(names), wanted)
    except QuotingError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    except (OSError, *NOT_READABLE) as exc:
        raise StorageError(f"{path}: cannot be read as a table: {one_line(exc)}") from exc


def _check_names(path: str, names: Sequence[str], wanted: Sequence[str]) -> None:
    if not names:
        raise StorageError(f"{path}: cannot be read as a table: it is empty, without even a header")
    for name in wanted:
        if name not in names:
            raise missing_column(path, name, names)
        if names.count(name) > 1:
            raise ConfigError(f"{path}: two columns are called {name!r}; rename one")


def missing_column(path: str, name: str, names: Sequence[str]) -> ConfigError:
    """Return what to raise where a table lacks a column that the model, or --id_column, names."""
    return ConfigError(
        f"{path}: has no column {name!r}, which the model's signature or --id_column names; it has "
        f"{one_line(', '.join(names))}"
    )


def read_table(path: str, wanted: Sequence[str], quoting: str = STANDARD) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table, in order: the columns `wanted` as text, and `FAULT`; one batch at least.

    A row that is none has nulls, and its fault, "code: detail". An empty field is an empty text; a key that a
    JSON line lacks is null. Lines without anything are no rows.

    Raises:
        ConfigError: a column is missing or there twice, or a quote is not closed.
        StorageError: the table cannot be read.
    """
    check_columns(path, wanted)
    try:
        yield from _read_json(path, wanted) if is_json(path) else _read_csv(path, wanted, quoting)
    except QuotingError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    except (OSError, pa.ArrowException, *NOT_READABLE) as exc:
        hint = "; save it as UTF-8" if "UTF" in str(exc) or isinstance(exc, UnicodeDecodeError) else ""
        raise StorageError(f"{path}: cannot be read as a table: {one_line(exc)}{hint}") from exc


def _schema(wanted: Sequence[str]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in (*wanted, FAULT)])


@dataclass
class _Faults:
    """The rows that Arrow's reader leaves out, by their number among all, and where the next one goes."""

    found: list[tuple[int, str]] = field(default_factory=list)
    next_row: int = 0

    def __call__(self, row: pyarrow.csv.InvalidRow) -> str:
        """Note a row; rows are numbered from 1, with the header, and those without anything are not."""
        text = (
            f"{WRONG_FIELD_COUNT}: {row.actual_columns} fields, and the header has {row.expected_columns}: "
            f"{one_line(row.text, _SHOWN_CHARS)}"
        )
        self.found.append((row.number - 2, text))
        return "skip"

    def put_between(self, batch: pa.RecordBatch, *, is_last: bool = False) -> pa.RecordBatch:
        """Return a batch of good rows with the faulty ones where they were between them."""
        n_good, first = len(batch), self.next_row
        end, faults = first + n_good, []
        while self.found and (self.found[0][0] < end or (is_last and self.found[0][0] == end)):
            faults.append(self.found.pop(0))
            end += 1
        self.next_row = end
        details = pa.nulls(n_good, pa.string())
        if faults:
            is_good = np.ones(end - first, np.bool_)
            is_good[[row - first for row, _ in faults]] = False
            places = pa.array(np.cumsum(is_good) - 1, mask=~is_good)
            batch = batch.take(places)
            texts = np.full(end - first, None, object)
            texts[~is_good] = [text for _, text in faults]
            details = pa.array(texts, pa.string())
        return pa.RecordBatch.from_arrays([*batch.columns, details], schema=_schema(batch.schema.names))


def _read_csv(path: str, wanted: Sequence[str], quoting: str) -> Iterator[pa.RecordBatch]:
    with open_text(path, errors="replace") as text:
        header = find_header(head_of(text), wanted[0], usual_delimiter(path))
    places = [header.names.index(name) for name in wanted]
    raw = [f"f{place}" for place in range(len(header.names))]  # names may be there twice where nobody asks
    faults = _Faults()
    csv.field_size_limit(1 << 30)
    with ExitStack() as stack:
        file = stack.enter_context(open_binary(path))
        is_gzip = begins_with(file, GZIP)
        is_utf_16 = not is_gzip and begins_with(file, *UTF_16)
        stream = stack.enter_context(pa.PythonFile(file, "r"))
        if is_gzip:
            stream = stack.enter_context(pa.CompressedInputStream(stream, "gzip"))
        lines = _Lines(stream)
        reader = pyarrow.csv.open_csv(
            stack.enter_context(pa.PythonFile(lines, "r")),
            pyarrow.csv.ReadOptions(
                use_threads=False,  # else nobody says which row is faulty
                block_size=_BLOCK_BYTES,
                column_names=raw,
                skip_rows_after_names=1,
                encoding="utf-16" if is_utf_16 else "utf8",
            ),
            pyarrow.csv.ParseOptions(
                delimiter=header.delimiter,
                quote_char=False if quoting == NONE else '"',
                newlines_in_values=quoting != NONE,
                invalid_row_handler=faults,
            ),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(raw, pa.string()),
                include_columns=[raw[place] for place in places],
                strings_can_be_null=False,
            ),
        )
        schema = pa.schema([(name, pa.string()) for name in wanted])
        for batch in reader:
            columns = (
                [pc.utf8_ltrim(one, " ") for one in batch.columns] if header.has_blanks else batch.columns
            )
            yield faults.put_between(pa.RecordBatch.from_arrays(columns, schema=schema))
        yield faults.put_between(pa.RecordBatch.from_pylist([], schema), is_last=True)
    if lines.number != faults.next_row + 1:  # with the header
        _check_rows(path, header, quoting, faults.next_row)


class _Lines:
    """A stream, read as it is, whose lines are counted meanwhile."""

    closed = False

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream
        self._n_ends = 0
        self._is_open = False

    @property
    def number(self) -> int:
        """Lines so far, with one that has no end."""
        return self._n_ends + self._is_open

    def read(self, n_bytes: int) -> bytes:
        """Read on."""
        data: bytes = self._stream.read(n_bytes)
        if data:
            self._n_ends += data.count(b"\n")
            self._is_open = not data.endswith(b"\n")
        return data

    def close(self) -> None:
        """Leave the stream to its owner."""
        self.closed = True


def _check_rows(path: str, header: Header, quoting: str, n_rows: int) -> None:
    """See whether a table whose lines are not its rows has these: slowly, and strict about quotes.

    Arrow's reader takes all up to the next quote, or to the end, for one field.

    Raises:
        QuotingError: a quote is not closed, and lines would be lost in it.
        StorageError: it is read otherwise here.
    """
    with open_text(path) as text:
        found = sum(1 for _ in rows_of(lines_of(text), header, quoting)) - 1
    if found != n_rows:
        raise StorageError(f"{path}: has {found:,} rows by its quotes, or {n_rows:,}: nobody can say which")


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _read_json(path: str, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    schema = _schema(wanted)
    rows: list[dict[str, str | None]] = []
    with open_text(path) as file:
        for number, line in enumerate(lines_of(file), start=1):
            if not line.strip():
                continue
            row = _parsed(line)
            if isinstance(row, dict):
                rows.append({name: as_text(row.get(name)) for name in wanted})
            else:
                shown = one_line(line, _SHOWN_CHARS)
                rows.append({FAULT: f"{NOT_AN_OBJECT}: line {number} is no JSON object: {shown}"})
            if len(rows) == _JSON_ROWS:
                yield pa.RecordBatch.from_pylist(rows, schema)
                rows = []
    yield pa.RecordBatch.from_pylist(rows, schema)
