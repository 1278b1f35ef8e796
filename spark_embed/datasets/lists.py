"""CSV, TSV and JSONL lists, plain or gzipped, as columns of text; knows no images and no Spark."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.csv

from spark_embed.errors import ConfigError, StorageError
from spark_embed.storage import open_binary

_JSON_SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
LIST_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", *_JSON_SUFFIXES)

_BLOCK_BYTES = 16 << 20
_ROWS_PER_BATCH = 10_000
_MAX_HEAD_CHARS = 1 << 20


def has_column(path: str, column: str) -> bool:
    """Say whether the first line of a list names the column; no for what is no such list.

    Raises:
        StorageError: the file cannot be read.
    """
    try:
        with _open_text(path) as file:
            line = file.readline(_MAX_HEAD_CHARS)
        if path.lower().endswith(_JSON_SUFFIXES):
            first = json.loads(line)
            return isinstance(first, dict) and column in first
        return column in next(csv.reader([line], delimiter=_delimiter(path)), [])
    except (gzip.BadGzipFile, zlib.error, EOFError, ValueError, csv.Error):
        return False
    except OSError as exc:
        raise StorageError(f"{path}: cannot be read: {exc}") from exc


def read_list(path: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a list in batches whose columns are all text, in bounded memory; at least one batch.

    An empty field of a CSV is null; a value of a JSON line that is no text stays JSON. The columns of a
    JSONL file are all that any of its lines has.

    Raises:
        ConfigError: two columns have one name.
        StorageError: the file cannot be read, or a line of it is no row.
    """
    try:
        yield from (_read_json if path.lower().endswith(_JSON_SUFFIXES) else _read_csv)(path)
    except (OSError, EOFError, ValueError, csv.Error, pa.ArrowException) as exc:
        raise StorageError(f"{path}: cannot be read as a list: {exc}") from exc


def _read_csv(path: str) -> Iterator[pa.RecordBatch]:
    with _open_text(path) as file:
        names = next(csv.reader(file, delimiter=_delimiter(path)), [])
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{path}: two columns are called {repeated[0]!r}; rename one")
    yield pa.RecordBatch.from_pylist([], pa.schema([(name, pa.string()) for name in names]))
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    parse = pa.csv.ParseOptions(delimiter=_delimiter(path), newlines_in_values=True)
    read = pa.csv.ReadOptions(block_size=_BLOCK_BYTES)
    with pa.input_stream(path, compression="gzip" if path.lower().endswith(".gz") else None) as stream:
        yield from pa.csv.open_csv(stream, read, parse, convert)


def _read_json(path: str) -> Iterator[pa.RecordBatch]:
    names: dict[str, None] = {}
    for row in _json_rows(path):
        names.update(dict.fromkeys(row))
    schema = pa.schema([(name, pa.string()) for name in names])
    batch: list[dict[str, str | None]] = []
    for row in _json_rows(path):
        batch.append({name: _as_text(value) for name, value in row.items()})
        if len(batch) == _ROWS_PER_BATCH:
            yield pa.RecordBatch.from_pylist(batch, schema)
            batch = []
    yield pa.RecordBatch.from_pylist(batch, schema)


def _json_rows(path: str) -> Iterator[dict[str, Any]]:
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as exc:
                raise ValueError(f"line {number} is no JSON: {exc}") from exc
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no JSON object")
            yield row


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _delimiter(path: str) -> str:
    return "\t" if ".tsv" in path.lower()[-7:] else ","


@contextmanager
def _open_text(path: str) -> Iterator[TextIO]:
    if path.lower().endswith(".gz"):
        with gzip.open(open_binary(path), "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    else:
        with TextIOWrapper(open_binary(path), encoding="utf-8-sig", newline="") as file:
            yield file
