"""A data set has one schema, that of its first run: later shards are read in its columns and types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pyspark.sql import types as T

from spark_embed.datasets.common_type import widen
from spark_embed.datasets.parquet import ParquetSource


def with_columns(source: ParquetSource, columns: Mapping[str, T.DataType]) -> ParquetSource:
    """Return the source with these own columns, where nothing of it is lost by that; else as it is.

    Shards that came later may lack a column, which is then null, or hold a type that one of these holds.

    Args:
        source: with the columns of the shards that there are now.
        columns: types by name, of the run that has begun the data set.
    """
    there = {name for shard in source.shards for name in shard.schema.names} | set(source.hive)
    now = {field.name: field.dataType for field in source.own_columns}
    for name, kind in now.items():
        if name not in columns or (kind != columns[name] and widen(kind, columns[name]) != columns[name]):
            return source
    if any(name in there for name in columns.keys() - now.keys()):  # left out by a flag
        return source
    fields = tuple(T.StructField(name, kind) for name, kind in columns.items())
    id_field = source.id
    if id_field and id_field.name in columns:
        id_field = T.StructField(id_field.name, columns[id_field.name])
    return replace(source, own_columns=fields, id=id_field)
