"""Parquet shards with an image column (img2dataset's shape), or with a url column of local paths.

They are the table of references already: this room reads them with Spark.
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
from spark_embed.fetch import Reference
from spark_embed.schema import (
    IMAGE,
    IMAGE_ID,
    IMAGE_TYPE,
    SHARD,
    SHARD_ROW,
    quoted,
    spark_type,
    without_nulls,
)
from spark_embed.source.columns import find_columns
from spark_embed.source.sample import sample_references
from spark_embed.source.shards import Shard, hive_columns, list_shards
from spark_embed.storage import folder_path


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
        id_type: its type in the data set as a whole, so that equal ids look the same from every shard.
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
    id_type: T.DataType
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

    def sample(self, n_rows: int) -> list[Reference]:
        """Return some `n_rows` references from all over the data set (`sample_references`)."""
        return sample_references(self.root, self.shards, self.image_column, self.transport, n_rows)

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
        file_schema = T.StructType(
            [T.StructField(field.name, without_nulls(spark_type(field.type))) for field in present]
        )
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
        image_id = place
        if self.id_column:
            image_id = F.coalesce(column(self.id_column).cast(self.id_type).cast("string"), place)
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
    schemas: dict[pa.Schema, str] = {}
    for shard in shards:
        schemas.setdefault(shard.schema, shard.path)
    hive = hive_columns(root, shards)
    columns = find_columns(config, root, schemas, hive)
    return ParquetSource(
        layout=columns.layout,
        root=root,
        shards=tuple(shards),
        own_columns=columns.own,
        image_column=columns.image,
        id_column=columns.id.name if columns.id else None,
        id_type=columns.id.dataType if columns.id else T.StringType(),
        hive=tuple(hive),
        transport="bytes" if columns.layout == "parquet" else "uri",
    )


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
