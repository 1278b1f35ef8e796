"""Text as every reader of the output can read it: Spark itself passes on whatever bytes a file calls text."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_embed.spark.versions import valid_utf8


def readable_text(value: Column, data_type: T.DataType) -> Column:
    """Return a value with U+FFFD for what is not UTF-8 in its text, however deep; nulls stay null.

    Args:
        value: any column.
        data_type: its type.
    """
    if not _holds_text(data_type):
        return value
    if isinstance(data_type, T.ArrayType):
        element = data_type.elementType
        return F.transform(value, lambda one: readable_text(one, element))
    if isinstance(data_type, T.MapType):
        key_type, value_type = data_type.keyType, data_type.valueType
        keyed = F.transform_keys(value, lambda key, _: readable_text(key, key_type))
        return F.transform_values(keyed, lambda _, one: readable_text(one, value_type))
    if isinstance(data_type, T.StructType):
        fields = (readable_text(value.getField(f.name), f.dataType).alias(f.name) for f in data_type)
        return F.when(value.isNotNull(), F.struct(*fields))
    return valid_utf8(value)


def identifying_text(value: Column, data_type: T.DataType) -> Column:
    """Return what names a row as text: bytes in lower-case hex, all else as Spark writes it."""
    if isinstance(data_type, T.BinaryType):
        return F.lower(F.hex(value))
    return valid_utf8(value.cast("string"))  # a struct may hold bytes


def _holds_text(data_type: T.DataType) -> bool:
    if isinstance(data_type, T.ArrayType):
        return _holds_text(data_type.elementType)
    if isinstance(data_type, T.MapType):
        return _holds_text(data_type.keyType) or _holds_text(data_type.valueType)
    if isinstance(data_type, T.StructType):
        return any(_holds_text(field.dataType) for field in data_type)
    return isinstance(data_type, T.StringType)
