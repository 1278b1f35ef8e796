"""Tables of any size, batch by batch, read as predictions read them; judges nothing that they hold.

What CSV and JSONL hold is text: who looks at it says what is a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.datasets.lists import LIST_SUFFIXES, column_names
from spark_embed.datasets.table_text import read_table
from spark_embed.errors import ConfigError, SparkEmbedError, StorageError, one_line
from spark_embed.storage import exists, folder_path, is_folder, is_shown, parquet_input, walk_files

_SUFFIXES = (".parquet", *LIST_SUFFIXES)
_BATCH_ROWS = 1 << 16


def list_tables(uri: str, flag: str) -> list[str]:
    """Return the paths of the files of a table: itself, or those below a folder, by name.

    Raises:
        ConfigError: there is no such file, or none of a kind that is read here.
        StorageError: the store does not say.
    """
    path = folder_path(uri, flag)
    try:
        if not exists(path):
            raise ConfigError(f"{flag} {uri}: there is no such file or folder")
        if not is_folder(path):
            paths = [path]
        else:
            paths = [f"{path}/{file.path}" for file in walk_files(path) if is_shown(file.path)]
    except OSError as exc:
        raise StorageError(f"{flag} {uri}: cannot be listed: {one_line(exc)}") from exc
    found = sorted(path for path in paths if path.lower().endswith(_SUFFIXES))
    if not found:
        raise ConfigError(f"{flag} {uri}: is no table by its name, nor holds one: {', '.join(_SUFFIXES)}")
    return found


def names_of(path: str) -> list[str]:
    """Return the columns of a file: of JSONL, all that its first lines have.

    Raises:
        StorageError: it is not what its name says.
    """
    try:
        if not path.lower().endswith(".parquet"):
            if not (found := column_names(path, "")):
                raise ValueError("it is empty, without columns")
            return found
        with pq.ParquetFile(parquet_input(path)) as file:
            names: list[str] = file.schema_arrow.names
            return names
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise StorageError(f"{path}: cannot be read: {one_line(exc)}") from exc


def read_columns(path: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a file, one at least; of text with `FAULT`: why a row is none, all of it null.

    Raises:
        StorageError: it is not what its name says, or is cut off.
    """
    try:
        if not path.lower().endswith(".parquet"):
            yield from read_table(path, columns)
            return
        with pq.ParquetFile(parquet_input(path), pre_buffer=False) as file:
            yield from file.iter_batches(_BATCH_ROWS, columns=list(columns))
    except StorageError:
        raise
    except (SparkEmbedError, pa.ArrowException, OSError) as exc:
        raise StorageError(f"{path}: cannot be read: {one_line(exc)}") from exc


def as_text(column: pa.Array) -> pa.Array:
    """Return a column as text: 7 as "7"; of what Arrow has no text for, such as lists, what Python prints."""
    try:
        return column.cast(pa.string())
    # Arrow has no text for lists, maps and the like (not implemented) nor for bytes that are no UTF-8
    # (invalid). Nothing is lost: what Python prints of each value stands for it.
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())


def read_column(paths: Sequence[str], name: str) -> Iterator[pa.Array]:
    """Yield a column of files, batch by batch.

    Raises:
        ConfigError: a file lacks it.
        StorageError: as `read_columns`.
    """
    for path in paths:
        if name not in (names := names_of(path)):
            raise ConfigError(f"{path}: has no column {name!r}; it has {one_line(', '.join(names))}")
        yield from (batch.column(name) for batch in read_columns(path, [name]))
