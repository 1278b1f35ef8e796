"""Parquet shards as the driver sees them: files, footers, and what the names of their folders say."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.datasets.catalogue import Catalogue, Entry
from spark_embed.datasets.pages import Pages, find_odd_pages
from spark_embed.errors import ConfigError, StorageError, one_line
from spark_embed.storage import (
    LFS_POINTER,
    StoredFile,
    is_lfs_pointer,
    is_store_failure,
    open_binary,
    parquet_input,
    shown_path,
)

_FOOTER_THREADS = 16
_HEAD_BYTES = 64


@dataclass(frozen=True)
class Shard:
    """One parquet file, of the data set or of its index.

    Attributes:
        path: relative to the folder of the files.
        schema: the file's own.
        name: what the data set calls it: of an index file, the tar, list or folder that it is made from.
        version: of its content.
        odd_pages: what of it Spark's vectorized reader lacks.
        group_rows: rows of its largest row group, between which alone Spark cuts it.
    """

    path: str
    n_bytes: int
    n_rows: int
    schema: pa.Schema
    name: str = ""
    version: str = ""
    odd_pages: Pages = ()
    group_rows: int = 0


@dataclass(frozen=True)
class BadShard:
    """A file of the data set that cannot be read, and why."""

    name: str
    reason: str


class Footer(NamedTuple):
    """What a parquet file's footer says; `Shard` has the same."""

    n_rows: int
    schema: pa.Schema
    odd_pages: Pages
    group_rows: int


def open_shards(
    input_dir: str, files: Sequence[StoredFile], catalogue: Catalogue
) -> tuple[list[Shard], list[BadShard]]:
    """Read the footers of parquet files below `input_dir` that the catalogue does not know.

    Raises:
        ConfigError: a name that Hadoop or Java cannot read.
    """
    if colons := [file.path for file in files if ":" in file.path]:
        raise ConfigError(f"--input_dir {input_dir}: Hadoop cannot read a name with ':', rename {colons[0]}")
    if odd := [file.path for file in files if not _is_unicode(file.path)]:
        raise ConfigError(f"--input_dir {input_dir}: Spark needs names in UTF-8, rename {shown_path(odd[0])}")
    unread = [file for file in files if catalogue.entries[file.path].group_rows is None]
    bad: dict[str, BadShard] = {}
    known: dict[pa.Schema, pa.Schema] = {}  # a hundred thousand shards share a handful of schemas
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        for file, footer in zip(
            unread, pool.map(lambda file: _try_footer(input_dir, file), unread), strict=True
        ):
            if isinstance(footer, BadShard):
                bad[file.path] = footer
            else:
                schema = known.setdefault(footer.schema, footer.schema)
                catalogue.set_footer(file.path, footer.n_rows, schema, footer.odd_pages, footer.group_rows)
    good = (file for file in files if file.path not in bad)
    return [_known_shard(file, catalogue.entries[file.path]) for file in good], list(bad.values())


def _known_shard(file: StoredFile, entry: Entry) -> Shard:
    return Shard(
        file.path,
        file.n_bytes,
        entry.n_rows or 0,
        entry.schema,
        file.path,
        entry.version,
        entry.odd_pages or (),
        entry.group_rows or 0,
    )


def _try_footer(input_dir: str, file: StoredFile) -> Footer | BadShard:
    try:
        return read_footer(os.path.join(input_dir, file.path))
    except StorageError as exc:
        if is_store_failure(exc):  # nothing is wrong with the shard
            raise
        return BadShard(file.path, str(exc))


def _is_unicode(path: str) -> bool:
    return not any(
        "\ud800" <= character <= "\udfff" for character in path
    )  # what os.listdir could not decode


def read_footer(path: str) -> Footer:
    """Read the footer of a parquet file; in the schema timestamps are as Spark will read them.

    Raises:
        StorageError: it cannot be read as parquet.
    """
    try:
        footer = pq.read_metadata(parquet_input(path))
        schema = footer.schema.to_arrow_schema().remove_metadata()
    except (OSError, pa.ArrowException) as exc:
        if _is_pointer(path):
            raise StorageError(f"{path}: {LFS_POINTER}") from exc
        raise StorageError(f"{path}: cannot be read as parquet: {one_line(exc, None)}") from exc
    physical = [footer.schema.column(index).physical_type for index in range(len(footer.schema))]
    if "INT96" in physical:
        leaves = iter(physical)
        schema = pa.schema([field.with_type(_with_instants(field.type, leaves)) for field in schema])
    groups = map(footer.row_group, range(footer.num_row_groups))
    group_rows = max((group.num_rows for group in groups), default=0)
    return Footer(footer.num_rows, schema, find_odd_pages(footer, schema.names), group_rows)


def _is_pointer(path: str) -> bool:
    try:
        with open_binary(path) as file:
            return is_lfs_pointer(file.read(_HEAD_BYTES))
    except OSError:
        return False


def _with_instants(arrow_type: pa.DataType, leaves: Iterator[str]) -> pa.DataType:
    """Return the type with an instant of microseconds wherever the file's next leaf column is INT96.

    Spark's writer stores timestamps so by default and reads them as instants; Arrow calls them
    timestamp[ns], which Spark would not read.
    """
    if pa.types.is_struct(arrow_type):
        return pa.struct([field.with_type(_with_instants(field.type, leaves)) for field in arrow_type])
    if pa.types.is_map(arrow_type):
        key = _with_instants(arrow_type.key_type, leaves)
        return pa.map_(key, _with_instants(arrow_type.item_type, leaves))
    if (
        pa.types.is_list(arrow_type)
        or pa.types.is_large_list(arrow_type)
        or pa.types.is_fixed_size_list(arrow_type)
    ):
        return pa.list_(_with_instants(arrow_type.value_type, leaves))
    return pa.timestamp("us", "UTC") if next(leaves) == "INT96" else arrow_type


def hive_columns(input_dir: str, shards: Sequence[Shard]) -> list[str]:
    """Return the columns that folders such as cat=1/ add, in order.

    Raises:
        ConfigError: the shards lie below different such folders, so that some would lack a column, or
            a name comes twice in one path.
    """
    by_keys: dict[tuple[str, ...], str] = {}
    for shard in shards:
        folders = shard.path.split("/")[:-1]
        by_keys.setdefault(tuple(name.split("=")[0] for name in folders if "=" in name), shard.path)
    if len(by_keys) > 1:
        one, other = list(by_keys.values())[:2]
        raise ConfigError(
            f"--input_dir {input_dir}: {one} and {other} lie below different column=value folders"
        )
    for keys, path in by_keys.items():
        if len(set(keys)) < len(keys):
            raise ConfigError(f"--input_dir {input_dir}: {path} has two folders for one column; rename one")
    return list(next(iter(by_keys), ()))


def schemas_of(shards: Sequence[Shard]) -> dict[pa.Schema, str]:
    """Return one shard's path for each schema that the shards have."""
    schemas: dict[pa.Schema, str] = {}
    for shard in shards:
        schemas.setdefault(shard.schema, shard.path)
    return schemas
