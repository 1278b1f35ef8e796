"""Parquet shards, with images or with urls, and indices of other layouts: the table of references.

They are that table already: this room reads them with Spark.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import reduce

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_embed.datasets.columns import HUGGING_FACE, URL_TABLE
from spark_embed.datasets.detection.detect import LISTS
from spark_embed.datasets.detection.not_used import NotUsed
from spark_embed.datasets.index.rows import REFERENCE_TYPE
from spark_embed.datasets.pages import is_readable, needs_plain_reader
from spark_embed.datasets.sample import sample_rows
from spark_embed.datasets.shards import BadShard, Shard
from spark_embed.datasets.units import Unit
from spark_embed.inference.fetch.rows import IMAGE_BYTES, IMAGE_PATH
from spark_embed.inference.preflight.sample import SampleRow
from spark_embed.schema import IMAGE, IMAGE_ID, INDEX_COLUMNS, INDEX_ROW, INDEX_SHARD, SHARD, SHARD_ROW
from spark_embed.spark.settings import read_parquet
from spark_embed.spark.task_size import TaskSize
from spark_embed.spark.text import identifying_text, readable_text
from spark_embed.spark.types import IMAGE_TYPE, quoted, spark_type, without_nulls

TABLE = "table"
"""The transport of tables: a task reads all columns of its rows itself."""


@dataclass(frozen=True)
class ParquetSource:
    """A data set of parquet shards, or of parquet files that index another layout.

    Attributes:
        layout: what metadata.json calls it; docs/output.md lists them.
        root: the input folder, absolute.
        folder: where the parquet files are: `root`, or the index's folder.
        shards: the parquet files, in the order of --max_samples.
        bad: shards that cannot be read, which are not among `shards`.
        n_shards: what the data set's own shards number: tars, not the files of their index.
        image_bytes: bytes of the data set, as far as known.
        own_columns: the data set's own columns that go to the output, with their Spark types.
        image_column: the column with the bytes, Hugging Face's images, the paths, or an index's references;
            "" where no image is read.
        id: the column that image_id is made from, with its type in the data set as a whole, so that equal ids
            look the same from every shard; None: shard#row.
        hive: columns that the folders add (cat=007/), in order.
        transport: how bytes reach the worker: "bytes" (through Spark), "reference" (it reads the image
            column itself), "uri" (it reads what a url column names), "index" (it reads what an index names),
            or `TABLE`.
        not_used: what lies in the input folder and goes into no row.
    """

    layout: str
    root: str
    folder: str
    shards: tuple[Shard, ...]
    n_shards: int
    image_bytes: int
    own_columns: tuple[T.StructField, ...]
    image_column: str
    id: T.StructField | None
    hive: tuple[str, ...]
    transport: str = "bytes"
    bad: tuple[BadShard, ...] = ()
    not_used: NotUsed = field(default_factory=NotUsed)

    def transports(self, wanted: str) -> list[str]:
        """Return the transports to try, best first, for --image_transport `wanted`."""
        if self.transport in ("uri", "index") or not self.image_column:
            return [self.transport]
        if wanted != "auto":
            return [wanted]
        can_spark = is_readable((shard.odd_pages for shard in self.shards), self.image_column)
        return ["reference", "bytes"] if can_spark else ["reference"]

    @property
    def read_by_spark(self) -> set[str]:
        """The columns that Spark reads, of those that the files have."""
        names = {field.name for field in (*self.own_columns, *filter(None, [self.id]))}
        if self.transport != "reference" and self.image_column:
            names.add(self.image_column)
        if self.transport == "index":
            names.update(INDEX_COLUMNS)
        return names

    @property
    def needs_plain_reader(self) -> bool:
        """Whether Spark's vectorized reader lacks what some column takes."""
        return needs_plain_reader((shard.odd_pages for shard in self.shards), self.read_by_spark)

    @property
    def is_table(self) -> bool:
        """Whether its rows are a table's, without images."""
        return self.transport == TABLE

    @property
    def has_urls(self) -> bool:
        """Whether the images have to be downloaded, which takes a time that nobody knows."""
        return bool(self.image_column) and self.layout in (URL_TABLE, LISTS)

    @property
    def n_rows(self) -> int:
        """Rows of all shards, from their footers."""
        return sum(shard.n_rows for shard in self.shards)

    @property
    def n_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.n_bytes for shard in self.shards)

    def table(self, spark: SparkSession, units: Sequence[Unit], size: TaskSize | None = None) -> DataFrame:
        """Return the table of references of `units`, one row per image.

        With `size`, its tasks have about as many rows, by the settings that go with it. Of shards that Spark
        cannot cut so the references are sorted into tasks first, which moves no image.

        Columns: `own_columns`, image_id, shard, shard_row, and the reference `IMAGE`. Shards whose
        files hold other types are read apart and cast, because Spark's reader converts hardly any; so are
        those that are wanted in part, because Spark can leave out rows only by looking at each.
        """
        if size is None:
            return _together(self._read(spark, units))
        by_coarse: dict[bool, list[Unit]] = {False: [], True: []}
        for unit in units:
            by_coarse[self._is_coarse(unit.shard, size)].append(unit)
        tables = self._read(spark, by_coarse[False])
        if coarse := by_coarse[True]:
            n_tasks = sum(size.n_tasks(unit.n_rows, self._read_bytes(unit.shard)) for unit in coarse)
            table = _together(self._read(spark, coarse))
            place = (SHARD, SHARD_ROW)
            tables.insert(0, table.repartitionByRange(n_tasks, *place).sortWithinPartitions(*place))
        return _together(tables)

    def _is_coarse(self, shard: Shard, size: TaskSize) -> bool:
        """Say whether Spark's tasks of a shard would be long, and no image is among what can be sorted."""
        return self.transport != "bytes" and not size.fits(shard.n_rows, shard.n_bytes, shard.group_rows)

    def _read_bytes(self, shard: Shard) -> float:
        """Return the bytes of a shard's largest row group, if the workers read it."""
        return shard.n_bytes * shard.group_rows / shard.n_rows if self.transport == "reference" else 0

    def _read(self, spark: SparkSession, units: Sequence[Unit]) -> list[DataFrame]:
        """Return the references of units, in as few tables as they take."""
        whole: dict[pa.Schema, list[Shard]] = defaultdict(list)
        tables = []
        for unit in units:
            if unit.is_whole:
                whole[unit.shard.schema].append(unit.shard)
            else:
                tables.append(self._read_group(spark, unit.shard.schema, [unit.shard], unit))
        return tables + [self._read_group(spark, schema, group) for schema, group in whole.items()]

    def sample(self, n_rows: int) -> list[SampleRow]:
        """Return some `n_rows` rows from all over the data set (`sample_rows`)."""
        return sample_rows(self.folder, self.shards, self.image_column, self.transport, n_rows)

    def _read_group(
        self, spark: SparkSession, schema: pa.Schema, shards: Sequence[Shard], part: Unit | None = None
    ) -> DataFrame:
        """Return the references of shards with one schema; with `part` only those rows of the one shard."""
        needed = self.read_by_spark
        present = [field for field in schema if field.name in needed and not pa.types.is_null(field.type)]
        file_schema = T.StructType(
            [T.StructField(field.name, without_nulls(spark_type(field.type))) for field in present]
        )
        paths = (os.path.join(self.folder, shard.path) for shard in shards)
        frame = read_parquet(spark, paths, file_schema)
        if part:
            index = F.col("_metadata.row_index")
            frame = frame.where((index >= part.first) & (index < part.first + part.n_rows))
        types = {field.name: field.dataType for field in file_schema}
        shard, row = _shard_path(self.folder), F.col("_metadata.row_index")
        if self.transport == "index":
            shard, row = F.col(INDEX_SHARD), F.col(INDEX_ROW)

        def column(name: str) -> Column:
            if name in self.hive:
                return _hive_value(shard, name)
            return F.col(quoted(name)) if name in types else F.lit(None)

        def typed(field: T.StructField) -> Column:
            value = column(field.name)
            if field.name in types:
                value = readable_text(value, types[field.name])
            return value.cast(field.dataType)

        own = [typed(field).alias(field.name) for field in self.own_columns]
        place = F.concat(shard, F.lit("#"), row.cast("string"))
        image_id = place
        if self.id:
            image_id = F.coalesce(identifying_text(typed(self.id), self.id.dataType), place)
        return frame.select(
            *own,
            image_id.alias(IMAGE_ID),
            shard.alias(SHARD),
            row.alias(SHARD_ROW),
            self._reference(
                column(self.image_column), shard, _fields_without_type(schema, self.image_column)
            ).alias(IMAGE),
        )

    def _reference(self, value: Column, shard: Column, nulls: Collection[str]) -> Column:
        """Return the reference of each row, by `transport`; the fields `nulls` of a struct are null."""
        folder = F.regexp_replace(F.concat(F.lit(self.folder + "/"), shard), "/[^/]*$", "")
        parts: dict[str, Column] = {}
        if not self.image_column:
            pass
        elif self.transport == "index":
            parts = {field.name: value[field.name] for field in REFERENCE_TYPE}
            file = value["file"].cast("string")
            beside = F.concat(F.lit(self.folder + "/"), file)
            parts["file"] = F.when(F.instr(file, "/") == 0, beside).otherwise(file)
        elif self.transport == "uri":
            parts = {"uri": value, "base": folder}
        elif self.transport == "bytes" and self.layout == HUGGING_FACE:
            data, path = (F.lit(None) if name in nulls else value[name] for name in (IMAGE_BYTES, IMAGE_PATH))
            parts = {"bytes": data, "uri": F.when(data.isNull(), path), "base": folder}
        elif self.transport == "bytes":
            parts = {"bytes": value}
        else:
            modified = F.unix_millis("_metadata.file_modification_time").cast("string")
            version = F.concat_ws("-", F.col("_metadata.file_size").cast("string"), modified)
            row = F.col("_metadata.row_index")
            parts = {"file": F.col("_metadata.file_path"), "row": row, "version": version}
        return F.struct(
            *(parts.get(f.name, F.lit(None)).cast(f.dataType).alias(f.name) for f in IMAGE_TYPE.fields)
        )


def _fields_without_type(schema: pa.Schema, column: str) -> set[str]:
    """Return the fields of Hugging Face's images that are null in each row, by which they have no type."""
    kind = schema.field(column).type if column in schema.names else pa.null()
    if pa.types.is_null(kind):
        return {IMAGE_BYTES, IMAGE_PATH}
    fields = kind if pa.types.is_struct(kind) else ()
    return {field.name for field in fields if pa.types.is_null(field.type)}


def _together(tables: Sequence[DataFrame]) -> DataFrame:
    """Return the rows of all tables, by their own method: before Spark 4 Connect has a class of its own."""
    return reduce(lambda some, more: some.unionByName(more), tables)


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
