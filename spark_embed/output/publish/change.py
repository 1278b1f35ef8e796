"""What a publishing adds to the published files and takes away, and what its files say of their origin."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import types as T

from spark_embed.output.fingerprint import file_metadata, results_of
from spark_embed.output.records import Marker, Part, RunRecord
from spark_embed.schema import ERROR, ERROR_DETAIL, ERRORS_NAME, RESULT, error_columns
from spark_embed.spark.types import field_type


@dataclass(frozen=True)
class Change:
    """What a publishing adds to the published files, and takes away.

    Attributes:
        markers: of the waves that it adds.
        versions: of the contents that the input's shards have now, by name.
        withheld: replaced shards that are not complete yet: their old rows stay.
        removed: shards whose published rows go.
    """

    markers: tuple[Marker, ...]
    versions: dict[str, str]
    withheld: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()

    def dropped(self, marker: Marker) -> list[Part]:
        """Return the parts of a wave that must not be published: of another content than the shard's now."""
        return [
            part
            for part in marker.units
            if part.shard in self.withheld
            or (part.shard in self.removed and part.shard not in self.versions)
            or self.versions.get(part.shard, part.version) != part.version
        ]


def make_metadata(spark_version: str, record: RunRecord, kind: str) -> dict[str, str]:
    """Return what the footers of a table's files say: what made them, and their types for Spark.

    Without its version Spark would not know by which calendar old dates are stored.
    """
    results = results_of(record.fingerprint)
    schema = T.StructType.fromJson(record.table_schema)
    given = [T.StructField(name, field_type(type_)) for result in results for name, type_ in result.fields]
    errors = [T.StructField(name, T.StringType()) for name in error_columns(results)]
    if kind == ERRORS_NAME:
        given = [T.StructField(ERROR, T.StringType()), T.StructField(ERROR_DETAIL, T.StringType())]
    fields = [
        field
        for own in schema
        for field in ([*given, *errors] if own.name == RESULT else [own])  # in its place
    ]
    return {
        "org.apache.spark.version": spark_version,
        **file_metadata(record.fingerprint, record.model),
        "org.apache.spark.sql.parquet.row.metadata": T.StructType(fields).json(),
    }
