"""Tables for --task predict: a file or a folder of parquet, CSV, TSV or JSONL -> a source like any other.

Their own columns go to the output by the model's signature; knows no image.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from pyspark.sql import types as T

from spark_embed.config import Config
from spark_embed.datasets.catalogue import hash_shards, read_catalogue, write_catalogue
from spark_embed.datasets.common_type import column_type
from spark_embed.datasets.detection.detect import Layout
from spark_embed.datasets.detection.seen import Seen
from spark_embed.datasets.detection.table_formats import live_files
from spark_embed.datasets.index.make import Index, make_index
from spark_embed.datasets.lists import LIST_SUFFIXES, is_json
from spark_embed.datasets.parquet import TABLE, ParquetSource
from spark_embed.datasets.shards import Shard, open_shards, schemas_of
from spark_embed.datasets.table_text import check_columns, missing_column
from spark_embed.errors import ConfigError, StorageError
from spark_embed.models.tabular.files import signature_of
from spark_embed.models.tabular.signature import Signature
from spark_embed.schema import ERROR, ERROR_DETAIL, RESULT, SHARD, SHARD_ROW, TABLE_ID, result_columns
from spark_embed.spark.session import Session
from spark_embed.storage import StoredFile, existing_folder, folder_path, is_file, is_s3, stat, walk_files

PARQUET_TABLE, TEXT_TABLE, JSON_TABLE = "parquet_table", "csv_table", "jsonl_table"

_FEATURE_TYPES = {"integer": T.LongType(), "number": T.DoubleType(), "boolean": T.BooleanType()}

_USELESS = ("image_column", "columns", "drop_columns", "retry_errors")
"""Options of a run that a table can do nothing with."""


def find_table_layout(config: Config) -> Layout:
    """Find the files of a table: that which --input_dir names, or all below it.

    Raises:
        ConfigError: there are none, or parquet and text, or an option is not for tables.
        StorageError: a folder cannot be listed.
    """
    for name in _USELESS:
        if getattr(config, name) != Config.model_fields[name].default:
            raise ConfigError(f"--{name}: is not for --task predict; leave it out")
    path = folder_path(config.input_dir, "--input_dir")
    if is_file(path):
        root, name = os.path.split(path)
        found = stat(path)
        files, seen = [replace(found, path=name)], Seen()
        is_text = name.lower().endswith(LIST_SUFFIXES)
        if not is_text and not name.lower().endswith(".parquet"):
            raise ConfigError(f"--input_dir {path}: is no table by its name: .parquet or {_SUFFIXES}")
        return _layout(TEXT_TABLE if is_text else PARQUET_TABLE, root, files, seen)
    root = existing_folder(config.input_dir, "--input_dir")
    roots = (root, *(folder_path(one, "--allowed_roots") for one in config.allowed_roots))
    seen = Seen(tuple(os.path.realpath(one) for one in roots if not is_s3(one)))
    for file in walk_files(root):
        seen.add(file)
    parquet, _ = live_files(root, seen.tables, seen.parquet)
    if parquet and seen.lists:
        raise ConfigError(
            f"--input_dir {root}: holds parquet ({parquet[0].path}) and text ({seen.lists[0].path}); name "
            "one of them, or a folder with one kind"
        )
    if not parquet and not seen.lists:
        raise ConfigError(f"--input_dir {root}: holds no table: .parquet or {_SUFFIXES}")
    return _layout(PARQUET_TABLE if parquet else TEXT_TABLE, root, parquet or seen.lists, seen)


_SUFFIXES = ", ".join(LIST_SUFFIXES)


def _layout(name: str, root: str, files: Sequence[StoredFile], seen: Seen) -> Layout:
    ordered = tuple(sorted(files, key=lambda file: file.path))
    return Layout(name, root, ordered, has_urls=False, not_used=seen.others)


def open_table(
    session: Session, config: Config, layout: Layout, *, index_folder: str, catalogue_path: str
) -> ParquetSource:
    """Return the source of a table, text as the index of its columns; as `open_source`.

    Raises:
        ConfigError: a file lacks a column, or one cannot go to the output.
        StorageError: no file can be read.
    """
    signature = signature_of(config)
    wanted = _wanted(config, signature)
    check_own(signature, config.id_column, include_features=config.include_features)
    catalogue = read_catalogue(catalogue_path)
    hashes = hash_shards(session(), layout.root, layout.files) if config.verify_shards else {}
    layout = replace(layout, files=tuple(catalogue.identified(layout.files, hashes)))
    if layout.name == TEXT_TABLE:
        check_columns(os.path.join(layout.root, layout.files[0].path), wanted)  # before Spark starts
        layout = replace(layout, columns=wanted)
        index = make_index(session, layout, index_folder, wanted[0], config.max_samples, config.list_quoting)
    else:
        shards, bad = open_shards(layout.root, layout.files, catalogue)
        index = Index(layout.root, tuple(shards), tuple(bad), sum(shard.n_bytes for shard in shards))
    if not index.shards:
        raise StorageError(f"none of {len(index.bad):,} files can be read; the first: {index.bad[0].reason}")
    if layout.name == PARQUET_TABLE:
        _check_names(layout.root, index.shards, wanted)
    write_catalogue(catalogue, catalogue_path)
    id_field = _id_field(config, layout, index.shards)
    own = (id_field, *(feature_fields(signature, id_field.name) if config.include_features else ()))
    return ParquetSource(
        layout=JSON_TABLE if is_json(layout.files[0].path) else layout.name,
        root=layout.root,
        folder=index.folder,
        shards=index.shards,
        n_shards=len(layout.files),
        image_bytes=sum(shard.n_bytes for shard in index.shards),
        own_columns=own,
        image_column="",
        id=id_field if config.id_column else None,
        hive=(),
        transport=TABLE,
        bad=(*layout.bad, *index.bad),
        not_used=layout.not_used,
    )


def _wanted(config: Config, signature: Signature) -> tuple[str, ...]:
    """Return the columns that are read."""
    ids = (config.id_column,) if config.id_column else ()
    return tuple(dict.fromkeys((*signature.names, *ids)))


def _check_names(root: str, shards: Sequence[Shard], wanted: Sequence[str]) -> None:
    for schema, path in schemas_of(shards).items():
        for name in wanted:
            if name not in schema.names:
                raise missing_column(os.path.join(root, path), name, schema.names)


def _id_field(config: Config, layout: Layout, shards: Sequence[Shard]) -> T.StructField:
    if config.id_column is None:
        return T.StructField(TABLE_ID, T.StringType())
    if layout.name == TEXT_TABLE:  # as it is written, leading zeros and all
        return T.StructField(config.id_column, T.StringType())
    kind = column_type(config.id_column, schemas_of(shards), "choose another --id_column")
    return T.StructField(config.id_column, kind)


def feature_fields(signature: Signature, id_column: str) -> list[T.StructField]:
    """Return the columns of the features as the output shows them: a category as what it is."""
    return [
        T.StructField(
            one.name,
            _FEATURE_TYPES.get(one.type)
            or (T.StringType() if isinstance(one.categories[0], str) else T.LongType()),
        )
        for one in signature.features
        if one.name != id_column
    ]


def check_own(
    signature: Signature, id_column: str | None, *, include_features: bool, unnamed: str | None = TABLE_ID
) -> None:
    """Refuse own columns that the output cannot have beside those of the predictions.

    Args:
        signature: of the model.
        id_column: as --id_column.
        include_features: as --include_features.
        unnamed: what the ids are called without an id_column; None: then there are none.

    Raises:
        ConfigError: a name is taken.
    """
    taken = {*result_columns(signature.gives), SHARD, SHARD_ROW, ERROR, ERROR_DETAIL, RESULT}
    first = id_column or unnamed
    others = [name for name in signature.names if include_features and name != id_column]
    for name in (*([first] if first else []), *others):
        if name.lower() in taken:
            raise ConfigError(
                f"the table has a column {name!r}, which the output needs for itself: rename it, or leave "
                f"out {'--id_column' if name == first else '--include_features'}"
            )
    if first in others:
        raise ConfigError(f"the output would have two columns {first!r}: name one with --id_column")
