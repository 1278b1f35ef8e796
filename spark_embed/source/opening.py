"""A folder -> the source of whatever layout it has; the only room that knows which layouts take an index."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyarrow as pa
from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.errors import ConfigError
from spark_embed.schema import IMAGE
from spark_embed.source.columns import URL_TABLE, find_columns, find_index_columns
from spark_embed.source.detect import FOLDER, PARQUET, TARS, Layout, detect
from spark_embed.source.index import Index, make_index
from spark_embed.source.parquet import ParquetSource
from spark_embed.source.shards import Shard, hive_columns, open_shards
from spark_embed.storage import folder_path


def check_input(config: Config) -> str:
    """Return the absolute path of --input_dir.

    Raises:
        ConfigError: there is no such folder.
    """
    root = folder_path(config.input_dir, "--input_dir")
    if not os.path.isdir(root):
        raise ConfigError(f"--input_dir {root}: there is no such folder")
    return root


def find_layout(config: Config) -> Layout:
    """Find out what --input_dir holds.

    Raises:
        ConfigError: no such folder, nothing to embed, or files of several layouts.
        StorageError: a folder cannot be listed.
    """
    return detect(check_input(config), config.layout, config.url_column)


def needs_index(layout: Layout) -> bool:
    """Say whether `open_source` writes an index: parquet shards need none."""
    return layout.name != PARQUET


def open_source(spark: SparkSession, config: Config, layout: Layout, index_folder: str) -> ParquetSource:
    """Return the source of a layout, once it has been indexed where it needs that.

    Raises:
        ConfigError: columns that cannot be used, with the flag that helps.
        StorageError: a file cannot be read.
    """
    if not needs_index(layout):
        return shard_source(config, layout)
    index = make_index(spark, layout, index_folder, config.url_column, config.max_samples)
    return index_source(config, layout, index)


def shard_source(config: Config, layout: Layout) -> ParquetSource:
    """Return the source of parquet shards; reads footers only.

    Raises:
        ConfigError: columns that cannot be used, with the flag that helps.
        StorageError: a footer cannot be read.
    """
    root = layout.root
    shards = open_shards(root, layout.files)
    hive = hive_columns(root, shards)
    columns = find_columns(config, root, _schemas(shards), hive)
    return ParquetSource(
        layout=columns.layout,
        root=root,
        folder=root,
        shards=tuple(shards),
        n_shards=len(shards),
        image_bytes=sum(shard.n_bytes for shard in shards),
        own_columns=columns.own,
        image_column=columns.image,
        id=columns.id,
        hive=tuple(hive),
        transport="uri" if columns.layout == URL_TABLE else "bytes",
    )


def index_source(config: Config, layout: Layout, index: Index) -> ParquetSource:
    """Return the source of a data set that has been indexed.

    Raises:
        ConfigError: columns that cannot be used, with the flag that helps.
    """
    columns = find_index_columns(config, _schemas(index.shards))
    is_img2dataset = layout.name == TARS and bool(layout.sidecars)
    n_rows = sum(shard.n_rows for shard in index.shards)
    return ParquetSource(
        layout="img2dataset_webdataset" if is_img2dataset else layout.name,
        root=layout.root,
        folder=index.folder,
        shards=index.shards,
        n_shards=n_rows if layout.name == FOLDER else len(layout.files),
        image_bytes=index.image_bytes,
        own_columns=columns.own,
        image_column=IMAGE,
        id=columns.id,
        hive=(),
        transport="index",
    )


def _schemas(shards: Sequence[Shard]) -> dict[pa.Schema, str]:
    """Return one shard's path for each schema that the shards have."""
    schemas: dict[pa.Schema, str] = {}
    for shard in shards:
        schemas.setdefault(shard.schema, shard.path)
    return schemas
