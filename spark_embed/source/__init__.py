"""Data sets of any layout, as the table of references: a row per image, where its bytes are, its columns."""

from __future__ import annotations

from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.source.detect import PARQUET, Layout, detect
from spark_embed.source.index import make_index
from spark_embed.source.parquet import ParquetSource, index_source, shard_source
from spark_embed.storage import folder_path

__all__ = ["Layout", "ParquetSource", "find_layout", "needs_index", "open_source"]


def find_layout(config: Config) -> Layout:
    """Find out what --input_dir holds.

    Raises:
        ConfigError: nothing to embed, or files of several layouts.
        StorageError: a folder cannot be listed.
    """
    return detect(folder_path(config.input_dir, "--input_dir"), config.layout, config.url_column)


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
