"""The columns of one file: those that run.json has, in name and type, for Spark and for everybody else?

Spark reads a file by the schema in its key-value metadata, others by the footer itself; no row is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.output.verify.contents import DataFile
from spark_embed.output.verify.report import Finding
from spark_embed.schema import (
    ERROR,
    ERROR_DETAIL,
    RESULT,
    FieldType,
    Results,
    error_columns,
    result_columns,
)

SPARK_SCHEMA = b"org.apache.spark.sql.parquet.row.metadata"
"""Entry of a file's key-value metadata: Spark's own schema, as JSON."""

SparkType = str | Mapping[str, Any]
"""A type as Spark's JSON has it: a name, or of a nested one its parts."""

Fields = Mapping[str, Mapping[str, Any]]
"""Columns by name, as Spark's JSON has them."""

_FIELD_KEYS = ("name", "type", "nullable", "metadata")
_PLAIN: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "byte": pa.int8(),
    "short": pa.int16(),
    "integer": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
    "timestamp_ntz": pa.timestamp("us"),
}
_GIVEN: dict[FieldType, SparkType] = {
    "vector": {"type": "array", "elementType": "float", "containsNull": False},
    "string": "string",
    "int": "integer",
    "bigint": "long",
    "float": "float",
    "double": "double",
    "boolean": "boolean",
    "timestamp": "timestamp",
    "array<string>": {"type": "array", "elementType": "string", "containsNull": True},
    "array<float>": {"type": "array", "elementType": "float", "containsNull": True},
}


def expected_columns(table_schema: Mapping[str, Any], results: Results, *, has_results: bool) -> Fields:
    """Return the columns that a file should have; none where nobody knows.

    Args:
        table_schema: run.json's.
        results: what the model gives.
        has_results: whether the file holds results, and not errors.
    """
    own = {field["name"]: field for field in table_schema.get("fields", []) if field["name"] != RESULT}
    if not own:
        return {}
    given: dict[str, SparkType] = {ERROR: "string", ERROR_DETAIL: "string"}
    if has_results:
        given = {field.name: _GIVEN[field.type] for result in results for field in result.fields}
    given |= dict.fromkeys(error_columns(results), "string")
    return own | {
        name: {"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in given.items()
    }


def check_columns(
    file: DataFile, opened: pq.ParquetFile, wanted: Fields, results: Results
) -> Iterator[Finding]:
    """Say which columns are missing, of another type, or too many; nothing where `wanted` is not known."""
    if not wanted:
        return
    schema = opened.schema_arrow
    for name, field in wanted.items():
        if schema.names.count(name) != 1:
            yield Finding("files", f"{file.name}: has no column {name}, which run.json has")
        elif not _holds(schema.field(name).type, field["type"]):
            shown = field["type"] if isinstance(field["type"], str) else json.dumps(field["type"])
            text = f"its column {name} is of type {schema.field(name).type}, in run.json {shown}"
            yield Finding("files", f"{file.name}: {text}")
    for name in schema.names:
        if name not in wanted and name not in result_columns(results):  # those are told by `find_strangers`
            yield Finding("files", f"{file.name}: has a column {name}, which run.json does not have")
    for_spark = (opened.metadata.metadata or {}).get(SPARK_SCHEMA)
    if for_spark is not None and not _is_schema_of(for_spark, wanted):
        yield Finding("files", f"{file.name}: what its metadata says to Spark of its columns is damaged")


def _is_schema_of(schema: bytes, wanted: Fields) -> bool:
    try:
        found = json.loads(schema)
        fields = {field["name"]: {key: field.get(key) for key in _FIELD_KEYS} for field in found["fields"]}
        return bool(found["type"] == "struct" and fields == wanted)
    except (ValueError, TypeError, KeyError, AttributeError):
        return False


def _holds(arrow_type: pa.DataType, spark_type: SparkType) -> bool:
    """Say whether this is the Arrow type of a Spark type; yes for a Spark type that is not known here."""
    if isinstance(spark_type, str):
        if spark_type.startswith("decimal("):
            return bool(pa.types.is_decimal(arrow_type)) and spark_type == (
                f"decimal({arrow_type.precision},{arrow_type.scale})"
            )
        return bool(arrow_type == _PLAIN.get(spark_type, arrow_type))
    kind = spark_type.get("type")
    if kind == "array":
        return bool(pa.types.is_list(arrow_type)) and _holds(arrow_type.value_type, spark_type["elementType"])
    if kind == "map":
        return (
            bool(pa.types.is_map(arrow_type))
            and _holds(arrow_type.key_type, spark_type["keyType"])
            and _holds(arrow_type.item_type, spark_type["valueType"])
        )
    if kind == "struct":
        fields = {field["name"]: field["type"] for field in spark_type["fields"]}
        return (
            bool(pa.types.is_struct(arrow_type))
            and [field.name for field in arrow_type] == list(fields)
            and all(_holds(field.type, fields[field.name]) for field in arrow_type)
        )
    return True
