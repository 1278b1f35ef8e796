"""Parquet shards with an image column (img2dataset's shape), or with a url column of local paths.

They are the table of references already: this room finds the columns and reads them with Spark.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_embed.config import Config
from spark_embed.errors import ConfigError
from spark_embed.schema import (
    EMBEDDING,
    ERROR,
    ERROR_DETAIL,
    IMAGE,
    IMAGE_ID,
    IMAGE_TYPE,
    SHARD,
    SHARD_ROW,
    quoted,
    spark_type,
)
from spark_embed.source.shards import Shard, hive_columns, list_shards, merge_schemas
from spark_embed.storage import folder_path

IMAGE_NAMES = ("jpg", "jpeg", "png", "webp", "image")
"""Binary columns taken for the image without --image_column: img2dataset names it by its encode format."""

URL_NAME = "url"
_ID_NAMES = ("key", "id")
_SAMPLED_SHARDS = 4


@dataclass(frozen=True)
class ParquetSource:
    """A data set of parquet shards.

    Attributes:
        layout: "parquet" (image bytes inline) or "parquet_urls" (local paths in a url column).
        root: absolute folder of the shards.
        shards: sorted by path; their order is the order of --max_samples.
        own_columns: the data set's own columns that go to the output, with their Spark types.
        image_column: the column with the bytes, or with the paths.
        id_column: the column that image_id is made from; None: shard#row.
        hive: columns that the folders add (cat=007/), in order.
        transport: how bytes reach the worker: "bytes" (through Spark), "reference" (it reads the image
            column itself), "uri" (it reads the file that a url column names).
    """

    layout: str
    root: str
    shards: tuple[Shard, ...]
    own_columns: tuple[T.StructField, ...]
    image_column: str
    id_column: str | None
    hive: tuple[str, ...]
    transport: str = "bytes"

    def transports(self, wanted: str) -> list[str]:
        """Return the transports to try, best first, for --image_transport `wanted`."""
        if self.transport == "uri":
            return ["uri"]
        return ["reference", "bytes"] if wanted == "auto" else [wanted]

    @property
    def n_rows(self) -> int:
        """Rows of all shards, from their footers."""
        return sum(shard.n_rows for shard in self.shards)

    @property
    def n_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.n_bytes for shard in self.shards)

    def table(self, spark: SparkSession, shards: Sequence[Shard] | None = None) -> DataFrame:
        """Return the table of references of `shards` (default: all), one row per image.

        Columns: `own_columns`, image_id, shard, shard_row, and the reference `IMAGE`. Shards whose
        files hold other types are read apart and cast, because Spark's reader converts hardly any.
        """
        groups: dict[pa.Schema, list[Shard]] = defaultdict(list)
        for shard in self.shards if shards is None else shards:
            groups[shard.schema].append(shard)
        tables = [self._read_group(spark, schema, group) for schema, group in groups.items()]
        return reduce(DataFrame.unionByName, tables)

    def sample(self, spark: SparkSession, n_rows: int) -> DataFrame:
        """Return some `n_rows` references, from a few shards spread over the data set."""
        step = max(1, len(self.shards) // _SAMPLED_SHARDS)
        table = self.table(spark, self.shards[::step][:_SAMPLED_SHARDS]).select(IMAGE)
        image = F.col(IMAGE)
        if self.transport == "bytes":
            table = table.where(image["bytes"].isNotNull())
        return table.limit(n_rows)

    def head(self, spark: SparkSession, n_rows: int) -> DataFrame:
        """Return the table of the first `n_rows` rows, in shard order."""
        chosen: list[Shard] = []
        left = n_rows
        for shard in self.shards:
            if left <= 0:
                break
            chosen.append(shard)
            left -= shard.n_rows
        table = self.table(spark, chosen)
        if left < 0:  # the last shard is wanted in part
            last = chosen[-1]
            table = table.where((F.col(SHARD) != last.path) | (F.col(SHARD_ROW) < last.n_rows + left))
        return table

    def _read_group(self, spark: SparkSession, schema: pa.Schema, shards: Sequence[Shard]) -> DataFrame:
        needed = {field.name for field in self.own_columns} | {self.id_column}
        if self.transport != "reference":
            needed.add(self.image_column)
        present = [field for field in schema if field.name in needed and not pa.types.is_null(field.type)]
        file_schema = T.StructType([T.StructField(field.name, spark_type(field.type)) for field in present])
        frame = (
            spark.read.schema(file_schema)
            .option("__globPaths__", "false")  # x[1].parquet is a name, not a pattern
            .option("recursiveFileLookup", "true")  # else [ or * in a folder's name multiplies the rows
            .parquet(*(os.path.join(self.root, shard.path) for shard in shards))
        )
        names = set(file_schema.names)
        shard, row = _shard_path(self.root), F.col("_metadata.row_index")

        def column(name: str) -> Column:
            if name in self.hive:
                return _hive_value(shard, name)
            return F.col(quoted(name)) if name in names else F.lit(None)

        own = [column(field.name).cast(field.dataType).alias(field.name) for field in self.own_columns]
        place = F.concat(shard, F.lit("#"), row.cast("string"))
        image_id = F.coalesce(column(self.id_column).cast("string"), place) if self.id_column else place
        return frame.select(
            *own,
            image_id.alias(IMAGE_ID),
            shard.alias(SHARD),
            row.alias(SHARD_ROW),
            self._reference(column(self.image_column), shard).alias(IMAGE),
        )

    def _reference(self, value: Column, shard: Column) -> Column:
        """Return the reference of each row, by `transport`."""
        if self.transport == "bytes":
            parts = {"bytes": value}
        elif self.transport == "uri":
            folder = F.regexp_replace(F.concat(F.lit(self.root + "/"), shard), "/[^/]*$", "")
            parts = {"uri": value, "base": folder}
        else:
            modified = F.unix_millis("_metadata.file_modification_time").cast("string")
            version = F.concat_ws("-", F.col("_metadata.file_size").cast("string"), modified)
            row = F.col("_metadata.row_index")
            parts = {"file": F.col("_metadata.file_path"), "row": row, "version": version}
        return F.struct(
            *(parts.get(f.name, F.lit(None)).cast(f.dataType).alias(f.name) for f in IMAGE_TYPE.fields)
        )


def find_source(config: Config) -> ParquetSource:
    """Find the shards under --input_dir and their columns; reads footers only.

    Raises:
        ConfigError: nothing to embed, or columns that cannot be used, with the flag that helps.
        StorageError: the folder or a footer cannot be read.
    """
    root = folder_path(config.input_dir, "--input_dir")
    shards = list_shards(root)
    hive = hive_columns(shards)
    all_names = list(dict.fromkeys(name for schema in {s.schema for s in shards} for name in schema.names))
    layout, image_column = _find_image_column(config, shards, all_names)
    id_column = _find_id_column(config, [*all_names, *hive], image_column)
    names = _own_names(config, [*all_names, *(name for name in hive if name not in all_names)])
    if layout == "parquet":
        names = [name for name in names if name != image_column]
    if id_column == IMAGE_ID:
        names = [name for name in names if name != IMAGE_ID]  # it is image_id already
    _check_reserved(names)
    read = {*names, image_column, *([id_column] if id_column else [])} - set(hive)
    schema = merge_schemas(shards, read)
    hive_fields = {name: T.StringType() for name in hive}
    own = [T.StructField(name, hive_fields.get(name) or _checked_type(schema, name)) for name in names]
    transport = "bytes" if layout == "parquet" else "uri"
    return ParquetSource(
        layout, root, tuple(shards), tuple(own), image_column, id_column, tuple(hive), transport
    )


def _find_image_column(config: Config, shards: Sequence[Shard], names: Sequence[str]) -> tuple[str, str]:
    """Return the layout and the column with the bytes or with the paths."""
    types: dict[str, set[bool]] = defaultdict(set)  # name -> is it binary? (null in a shard: no answer)
    for schema in {shard.schema for shard in shards}:
        for field in schema:
            if not pa.types.is_null(field.type):
                types[field.name].add(pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type))
    binary = [name for name in names if types[name] == {True}]
    if wanted := config.image_column:
        if wanted not in names:
            raise ConfigError(f"--image_column {wanted!r}: no such column; there are {', '.join(names)}")
        if wanted not in binary:
            raise ConfigError(
                f"--image_column {wanted!r}: not binary; binary columns: {', '.join(binary) or 'none'}"
            )
        return "parquet", wanted
    if found := next((name for name in IMAGE_NAMES if name in binary), None):
        return "parquet", found
    if binary:
        raise ConfigError(
            f"--input_dir: which column holds the images? Say --image_column, one of {', '.join(binary)} "
            f"(found without it: {', '.join(IMAGE_NAMES)})"
        )
    if URL_NAME in names:
        return "parquet_urls", URL_NAME
    raise ConfigError(
        f"--input_dir: no image column (binary {', '.join(IMAGE_NAMES)}, or {URL_NAME} with paths); "
        f"the shards have {', '.join(names)}"
    )


def _find_id_column(config: Config, names: Sequence[str], image_column: str) -> str | None:
    wanted = config.id_column
    if wanted is None:
        return next((name for name in _ID_NAMES if name in names and name != image_column), None)
    if wanted not in names:
        raise ConfigError(f"--id_column {wanted!r}: no such column; there are {', '.join(names)}")
    return wanted


def _own_names(config: Config, names: Sequence[str]) -> list[str]:
    for flag, chosen in (("--columns", config.columns or ()), ("--drop_columns", config.drop_columns)):
        if missing := [name for name in chosen if name not in names]:
            raise ConfigError(f"{flag} {missing[0]!r}: no such column; there are {', '.join(names)}")
    wanted = names if config.columns is None else config.columns
    return [name for name in wanted if name not in config.drop_columns]


def _check_reserved(names: Sequence[str]) -> None:
    reserved = (IMAGE_ID, SHARD, SHARD_ROW, EMBEDDING, ERROR, ERROR_DETAIL)
    for name in names:
        if name.lower() in reserved:
            also = f" (or use it as the id: --id_column {name})" if name.lower() == IMAGE_ID else ""
            raise ConfigError(
                f"the data set has a column {name!r}, which the output needs for itself: leave it out with "
                f"--drop_columns {name}{also}"
            )


def _checked_type(schema: pa.Schema, name: str) -> T.DataType:
    try:
        return spark_type(schema.field(name).type)
    except TypeError as exc:
        raise ConfigError(f"column {name!r}: {exc}; leave it out with --drop_columns {name}") from exc


def _shard_path(root: str) -> Column:
    """Return the shard of each row: its file's path relative to `root`, percent-decoding undone.

    Spark's file_path is a percent-encoded URI.
    """
    uri = _percent_decoded(F.col("_metadata.file_path"))
    return uri.substr(F.instr(uri, root + "/") + F.lit(len(root) + 1), F.length(uri))


def _hive_value(shard: Column, name: str) -> Column:
    """Return what a folder such as cat=007 says of each row, as text: 007 stays 007.

    Hive writes null as a name of its own and percent-encodes what a path cannot hold.
    """
    found = F.regexp_extract(shard, f"(?:^|/){re.escape(name)}=([^/]*)/", 1)
    return F.when(found != "__HIVE_DEFAULT_PARTITION__", _percent_decoded(found))


def _percent_decoded(text: Column) -> Column:
    return F.url_decode(F.replace(text, F.lit("+"), F.lit("%2B")))  # url_decode takes + for a space
