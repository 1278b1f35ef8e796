"""Spark types of the columns, in and out; knows no file, no model and no session."""

from __future__ import annotations

from functools import cache

import pyarrow as pa
from pyspark.sql import types as T

from spark_embed.schema import ERROR, ERROR_DETAIL, FieldType, Results, error_columns

STATS = "stats"
STAGE_SECONDS = (
    "load_s",
    "read_s",
    "download_s",
    "download_wait_s",
    "fetch_s",
    "decode_s",
    "wait_s",
    "predict_s",
    "encode_s",
)

TRAFFIC = ("s3_requests", "s3_bytes")
"""What the worker itself has asked S3 for, and got; not what Spark's JVM reads."""

BATCH_LIMIT = "batch_limit"

IMAGE_TYPE = T.StructType(
    [
        T.StructField("bytes", T.BinaryType()),  # the encoded image, inline
        T.StructField("uri", T.BinaryType()),  # or where it is: paths, and Spark's strings, need not be UTF-8
        T.StructField("base", T.BinaryType()),  # the folder that a relative uri starts from
        T.StructField("file", T.BinaryType()),  # or the parquet file that holds it
        T.StructField("row", T.LongType()),  # and its row there
        T.StructField("offset", T.LongType()),  # or a range of bytes of the file
        T.StructField("length", T.LongType()),
        T.StructField("version", T.StringType()),  # of that file when the run was planned
        T.StructField("missing", T.StringType()),  # or why it is nowhere
    ]
)
"""A reference: where one image's bytes are. Only the fetch stage looks inside."""

STATS_TYPE = T.StructType(
    [
        T.StructField("executor", T.StringType()),  # host:pid
        T.StructField("device", T.StringType()),
        T.StructField("n_tasks", T.IntegerType()),  # 1 in the first batch of a task
        T.StructField("n_model_loads", T.IntegerType()),  # 1 where this batch had to load the model
        T.StructField("n_rows", T.IntegerType()),  # of the batch
        T.StructField("n_rows_again", T.IntegerType()),  # the same where the task had been tried before
        T.StructField("task_s", T.FloatType()),  # on the clock, since the batch before
        *(T.StructField(name, T.FloatType()) for name in STAGE_SECONDS),
        *(T.StructField(name, T.LongType()) for name in TRAFFIC),
        T.StructField(BATCH_LIMIT, T.IntegerType()),  # images that fitted into the device at once; null: all
    ]
)
"""What a batch cost, on its first row (null on the others), so that times are committed with the rows."""

VECTOR_SPARK_TYPE = T.ArrayType(T.FloatType(), containsNull=False)

_FIELD_TYPES: dict[FieldType, T.DataType] = {
    "vector": VECTOR_SPARK_TYPE,
    "string": T.StringType(),
    "int": T.IntegerType(),
    "bigint": T.LongType(),
    "float": T.FloatType(),
    "double": T.DoubleType(),
    "boolean": T.BooleanType(),
    "timestamp": T.TimestampType(),
    "array<string>": T.ArrayType(T.StringType()),
    "array<float>": T.ArrayType(T.FloatType()),
}


def field_type(kind: FieldType) -> T.DataType:
    """Return the type of a column that a model gives, as readers see it."""
    return _FIELD_TYPES[kind]


@cache
def result_type(results: Results, *, packed: bool = False) -> T.StructType:
    """Return what the UDF returns for a model that gives these results.

    First the model's columns, each null where its result is missing; where there are several results, their
    `<name>_error`; then `error`, null unless the row has no result at all, its detail, and `STATS_TYPE`.

    With `packed`, as a wave stores it, a vector is the bytes of its float32 values, little-endian: to Spark
    that is one value a row instead of one for each dimension, a tenth of the work.
    """
    vector = T.BinaryType() if packed else field_type("vector")
    given = [
        T.StructField(field.name, vector if field.type == "vector" else field_type(field.type))
        for result in results
        for field in result.fields
    ]
    errors = [T.StructField(name, T.StringType()) for name in (*error_columns(results), ERROR, ERROR_DETAIL)]
    return T.StructType([*given, *errors, T.StructField(STATS, STATS_TYPE)])


_SPARK_TYPES: dict[pa.DataType, T.DataType] = {
    pa.null(): T.NullType(),  # without a single value: any type will do
    pa.bool_(): T.BooleanType(),
    pa.int8(): T.ByteType(),
    pa.uint8(): T.ShortType(),
    pa.int16(): T.ShortType(),
    pa.uint16(): T.IntegerType(),
    pa.int32(): T.IntegerType(),
    pa.uint32(): T.LongType(),
    pa.int64(): T.LongType(),
    pa.uint64(): T.DecimalType(20, 0),
    pa.float32(): T.FloatType(),
    pa.float64(): T.DoubleType(),
    pa.date32(): T.DateType(),
    pa.string(): T.StringType(),
    pa.large_string(): T.StringType(),
    pa.string_view(): T.StringType(),
    pa.binary(): T.BinaryType(),
    pa.large_binary(): T.BinaryType(),
    pa.binary_view(): T.BinaryType(),
}


def spark_type(arrow_type: pa.DataType) -> T.DataType:
    """Return the type with which Spark reads a parquet column that Arrow calls `arrow_type`.

    The pairs are those of Spark's own parquet reader (Spark SQL guide, "Parquet files"), which is
    stricter than Arrow.

    Raises:
        TypeError: Spark cannot hold the type (timestamp[ns], float16, time, ...).
    """
    if arrow_type in _SPARK_TYPES:
        return _SPARK_TYPES[arrow_type]
    if pa.types.is_decimal128(arrow_type):
        return T.DecimalType(arrow_type.precision, arrow_type.scale)
    if pa.types.is_timestamp(arrow_type) and arrow_type.unit != "ns":
        return T.TimestampType() if arrow_type.tz else T.TimestampNTZType()
    if pa.types.is_duration(arrow_type):
        return T.LongType()  # parquet stores the number alone
    if pa.types.is_fixed_size_binary(arrow_type):
        return T.BinaryType()
    if pa.types.is_dictionary(arrow_type):
        return spark_type(arrow_type.value_type)
    if isinstance(arrow_type, pa.BaseExtensionType):  # UUID, JSON: Spark goes by what is stored
        return spark_type(arrow_type.storage_type)
    if pa.types.is_map(arrow_type):
        return T.MapType(spark_type(arrow_type.key_type), spark_type(arrow_type.item_type))
    if pa.types.is_struct(arrow_type):
        if len({f.name.lower() for f in arrow_type}) < arrow_type.num_fields:
            raise TypeError(f"Spark cannot hold fields that differ only in case: {arrow_type}")
        return T.StructType([T.StructField(f.name, spark_type(f.type)) for f in arrow_type])
    if (
        pa.types.is_list(arrow_type)
        or pa.types.is_large_list(arrow_type)
        or pa.types.is_fixed_size_list(arrow_type)
    ):
        return T.ArrayType(spark_type(arrow_type.value_type))
    raise TypeError(f"Spark cannot hold the type {arrow_type}")


def without_nulls(data_type: T.DataType, null: T.DataType | None = None) -> T.DataType:
    """Return the type with `null` for a NullType, and integers for those inside it.

    Spark 4.1 itself takes the elements of a list without a value for integers, as parquet stores them;
    Spark 3.5 reads no NullType.
    """
    if isinstance(data_type, T.NullType):
        return null or T.IntegerType()
    if isinstance(data_type, T.ArrayType):
        return T.ArrayType(without_nulls(data_type.elementType))
    if isinstance(data_type, T.MapType):
        return T.MapType(without_nulls(data_type.keyType), without_nulls(data_type.valueType))
    if isinstance(data_type, T.StructType):
        return T.StructType([T.StructField(f.name, without_nulls(f.dataType)) for f in data_type])
    return data_type


def quoted(column: str) -> str:
    """Return `column` in backticks: a dot in a name would otherwise mean a field of a struct."""
    return "`" + column.replace("`", "``") + "`"
