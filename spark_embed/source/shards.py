"""Parquet shards as the driver sees them: files, footers, and the one schema they have together."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce

import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.errors import ConfigError, StorageError
from spark_embed.storage import StoredFile, list_files

_FOOTER_THREADS = 16


@dataclass(frozen=True)
class Shard:
    """One parquet file: `path` is relative to the input folder, `schema` is the file's own."""

    path: str
    n_bytes: int
    n_rows: int
    schema: pa.Schema


def list_shards(input_dir: str) -> list[Shard]:
    """List the parquet files below `input_dir`, sorted by path, and read their footers.

    Raises:
        ConfigError: no such folder, no parquet file in it, or a name that Hadoop cannot read.
        StorageError: a file is not parquet.
    """
    if not os.path.isdir(input_dir):
        raise ConfigError(f"--input_dir {input_dir}: there is no such folder")
    files = list_files(input_dir, ".parquet")
    if not files:
        raise ConfigError(f"--input_dir {input_dir}: no *.parquet file in it or in its subfolders")
    if colons := [file.path for file in files if ":" in file.path]:
        raise ConfigError(f"--input_dir {input_dir}: Hadoop cannot read a name with ':', rename {colons[0]}")
    known: dict[pa.Schema, pa.Schema] = {}  # a hundred thousand shards share a handful of schemas

    def open_shard(file: StoredFile) -> Shard:
        shard = _read_footer(input_dir, file)
        return Shard(shard.path, shard.n_bytes, shard.n_rows, known.setdefault(shard.schema, shard.schema))

    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        return list(pool.map(open_shard, files))


def _read_footer(input_dir: str, file: StoredFile) -> Shard:
    try:
        footer = pq.read_metadata(os.path.join(input_dir, file.path))
        schema = footer.schema.to_arrow_schema().remove_metadata()
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{file.path} in --input_dir cannot be read as parquet: {exc}") from exc
    return Shard(file.path, file.n_bytes, footer.num_rows, schema)


def hive_columns(shards: Sequence[Shard]) -> list[str]:
    """Return the columns that folders such as cat=1/ add, in order.

    Raises:
        ConfigError: the shards lie below different such folders, so that some would lack a column.
    """
    by_keys: dict[tuple[str, ...], str] = {}
    for shard in shards:
        folders = shard.path.split("/")[:-1]
        by_keys.setdefault(tuple(name.split("=")[0] for name in folders if "=" in name), shard.path)
    if len(by_keys) > 1:
        one, other = list(by_keys.values())[:2]
        raise ConfigError(f"--input_dir: {one} and {other} lie below different column=value folders")
    return list(next(iter(by_keys), ()))


def merge_schemas(shards: Sequence[Shard], columns: Iterable[str] | None = None) -> pa.Schema:
    """Return the schema that holds every shard's columns: nulls take any type, numbers widen.

    Raises:
        ConfigError: a column has types that do not fit together, or two names differ only in case.
    """
    wanted = None if columns is None else set(columns)
    examples: dict[str, dict[pa.DataType, str]] = defaultdict(dict)
    for schema, shard in {shard.schema: shard for shard in shards}.items():
        for field in schema:
            if wanted is None or field.name in wanted:
                examples[field.name].setdefault(_plain(field.type), shard.path)
    _check_case(examples)
    return pa.schema([(name, _common_type(name, types)) for name, types in examples.items()])


def _check_case(names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ConfigError(
                f"columns {other!r} and {name!r} differ only in case, which Spark cannot tell apart: leave "
                f"one out with --drop_columns {name}"
            )


def _common_type(name: str, types: dict[pa.DataType, str]) -> pa.DataType:
    def widen(one: pa.DataType, other: pa.DataType) -> pa.DataType:
        both = [pa.schema([(name, one)]), pa.schema([(name, other)])]
        return pa.unify_schemas(both, promote_options="permissive").field(name).type

    try:
        return reduce(widen, types)
    except pa.ArrowException as exc:
        found = ", ".join(f"{arrow_type} in {path}" for arrow_type, path in types.items())
        raise ConfigError(
            f"column {name!r} has types that do not fit together ({found}): "
            f"leave it out with --drop_columns {name}"
        ) from exc


def _plain(arrow_type: pa.DataType) -> pa.DataType:
    """Return the type without dictionary encoding, which parquet has per page and not per column."""
    return arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type
