"""CSV, TSV and JSONL lists, plain or gzipped, as columns of text; knows no images and no Spark."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from itertools import islice
from typing import Any, BinaryIO, TextIO, cast

import pyarrow as pa

from spark_embed.datasets.delimited import (
    STANDARD,
    QuotingError,
    check_row,
    find_header,
    read_header,
    rows_of,
)
from spark_embed.errors import ConfigError, StorageError, one_line
from spark_embed.storage import LFS_POINTER, is_lfs_pointer, is_store_failure, open_binary

_JSON_SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
LIST_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", *_JSON_SUFFIXES)

ROWS_PER_BATCH = 10_000
_CHARS_PER_BATCH = 16 << 20
_MAX_LINE_CHARS = 64 << 20
_MAX_COLUMNS = 2000
_HEAD_LINES = 100
_HEAD_CHARS = 1 << 20
_POINTER_BYTES = 64

GZIP = b"\x1f\x8b"  # RFC 1952
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # its byte order marks

NOT_READABLE = (EOFError, ValueError, RecursionError, zlib.error)


def column_names(path: str, wanted: str) -> list[str]:
    """Return the columns of a list, by its first lines: of a JSONL file, all that these have.

    Args:
        path: of the list.
        wanted: a column, by which the delimiter is found.

    Raises:
        ValueError: it is no list; the text says why.
        StorageError: the store does not give it.
    """
    try:
        with open_text(path, errors="replace") as file:
            head = head_of(file)
        if not is_json(path):
            return find_header(head, wanted, usual_delimiter(path)).names
        names: dict[str, None] = {}
        for row, _ in _json_rows(head):
            names.update(dict.fromkeys(row))
        return list(names)
    except OSError as exc:
        failure = StorageError(f"{path}: cannot be read: {exc}")
        failure.__cause__ = exc
        if is_store_failure(failure):
            raise failure from exc
        raise ValueError(str(exc)) from exc
    except NOT_READABLE as exc:
        raise ValueError(str(exc)) from exc


def read_list(path: str, wanted: str = "", quoting: str = STANDARD) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a list in batches whose columns are all text, in bounded memory; at least one batch.

    An empty field of a CSV is null; a value of a JSON line that is no text stays JSON. The columns of a
    JSONL file are all that any of its lines has.

    Args:
        path: of the list.
        wanted: a column, by which the delimiter is found; it tells, too, which lines are rows.
        quoting: of a CSV or TSV (--list_quoting).

    Raises:
        ConfigError: two columns have one name, or a quote is not closed, so that rows would be lost.
        StorageError: the file cannot be read, or a line of it is no row.
    """
    try:
        yield from _read_json(path) if is_json(path) else _read_csv(path, wanted, quoting)
    except QuotingError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    except UnicodeDecodeError as exc:
        raise StorageError(
            f"{path}: cannot be read as a list: it is not in {exc.encoding} ({exc.reason}); save it as UTF-8"
        ) from exc
    except (OSError, *NOT_READABLE) as exc:
        raise StorageError(f"{path}: cannot be read as a list: {exc}") from exc


def _read_csv(path: str, wanted: str, quoting: str) -> Iterator[pa.RecordBatch]:
    with open_text(path, errors="replace") as file:
        header = find_header(head_of(file), wanted, usual_delimiter(path))
    names = header.names
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{path}: two columns are called {repeated[0]!r}; rename one")
    if not names:
        raise ValueError("it is empty")
    schema = pa.schema([(name, pa.string()) for name in names])
    yield pa.RecordBatch.from_pylist([], schema)
    batch: list[list[str]] = []
    n_chars = 0
    with open_text(path) as file:
        rows = rows_of(lines_of(file), header, quoting)
        read_header(rows)
        for row in rows:
            check_row(row, header, wanted)
            batch.append(row.fields)
            n_chars += sum(map(len, row.lines))
            if len(batch) == ROWS_PER_BATCH or n_chars > _CHARS_PER_BATCH:
                yield _batch(batch, schema)
                batch, n_chars = [], 0
    if batch:
        yield _batch(batch, schema)


def _batch(rows: list[list[str]], schema: pa.Schema) -> pa.RecordBatch:
    columns = [pa.array([text or None for text in column], pa.string()) for column in zip(*rows, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _read_json(path: str) -> Iterator[pa.RecordBatch]:
    names: dict[str, None] = {}
    with open_text(path) as file:
        for row, _ in _json_rows(lines_of(file)):
            names.update(dict.fromkeys(row))
            if len(names) > _MAX_COLUMNS:
                raise ValueError(f"its lines have more than {_MAX_COLUMNS} different keys")
    schema = pa.schema([(name, pa.string()) for name in names])
    batch: list[dict[str, str | None]] = []
    n_chars = 0
    with open_text(path) as file:
        for row, length in _json_rows(lines_of(file)):
            batch.append(row)
            n_chars += length
            if len(batch) == ROWS_PER_BATCH or n_chars > _CHARS_PER_BATCH:
                yield pa.RecordBatch.from_pylist(batch, schema)
                batch, n_chars = [], 0
    yield pa.RecordBatch.from_pylist(batch, schema)


def _json_rows(lines: Iterable[str]) -> Iterator[tuple[dict[str, str | None], int]]:
    """Yield the text of each key of each line that is not empty, and the line's length."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("no object")
            texts = {_sound(name): as_text(value) for name, value in row.items()}
        except (ValueError, RecursionError) as exc:
            raise ValueError(f"line {number} is no JSON object: {one_line(exc)}") from exc
        yield texts, len(line)


def as_text(value: Any) -> str | None:
    """Return a JSON value as text: a string as it is, all else as JSON; None for null."""
    if value is None:
        return None
    return _sound(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _sound(text: str) -> str:
    """Return the text without halves of surrogate pairs, which JSON can say (\\ud83d) and UTF-8 cannot."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def is_json(path: str) -> bool:
    """Say whether a list is JSONL, by its name."""
    return path.lower().endswith(_JSON_SUFFIXES)


def usual_delimiter(path: str) -> str:
    """Return the delimiter that a list's name promises."""
    return "\t" if ".tsv" in path.lower()[-7:] else ","


def lines_of(file: TextIO) -> Iterator[str]:
    """Yield the lines of a file.

    Raises:
        ValueError: one is of no list, so long is it.
    """
    number = 1
    while line := file.readline(_MAX_LINE_CHARS):
        if len(line) == _MAX_LINE_CHARS and line[-1] not in "\r\n":
            raise ValueError(f"line {number} has {_MAX_LINE_CHARS:,} characters and more")
        yield line
        number += 1


def head_of(file: TextIO) -> list[str]:
    """Return the first lines, the last of them whole."""
    lines: list[str] = []
    n_chars = 0
    for line in islice(lines_of(file), _HEAD_LINES):
        lines.append(line)
        n_chars += len(line)
        if n_chars > _HEAD_CHARS:
            break
    return lines


@contextmanager
def open_text(path: str, errors: str = "strict") -> Iterator[TextIO]:
    """Open a list, of UTF-8 or of what its byte order mark says, and gzipped if its first bytes say so.

    Raises:
        ValueError: there is a Git LFS pointer in its place.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open_binary(path))
        if is_lfs_pointer(_first(file, _POINTER_BYTES)):
            raise ValueError(LFS_POINTER)
        if begins_with(file, GZIP):
            file = cast(BinaryIO, stack.enter_context(gzip.open(file)))
        encoding = "utf-16" if begins_with(file, *UTF_16) else "utf-8-sig"
        yield stack.enter_context(TextIOWrapper(file, encoding=encoding, errors=errors, newline=""))


def begins_with(file: BinaryIO, *marks: bytes) -> bool:
    """Say whether a file's first two bytes are one of these; leaves it at its beginning."""
    return _first(file, 2) in marks


def _first(file: BinaryIO, n_bytes: int) -> bytes:
    start = file.read(n_bytes)
    file.seek(0)
    return start
