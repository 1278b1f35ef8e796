"""The one Spark type that holds a column's values from all shards and changes none of them."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from pyspark.sql import types as T

from spark_embed.errors import ConfigError
from spark_embed.spark.types import spark_type, without_nulls

_NUMBERS = (T.ByteType, T.ShortType, T.IntegerType, T.LongType, T.FloatType, T.DoubleType)
_HELD_BY: dict[type[T.DataType], tuple[type[T.DataType], ...]] = {
    T.ByteType: _NUMBERS,
    T.ShortType: _NUMBERS[1:],
    T.IntegerType: (T.IntegerType, T.LongType, T.DoubleType),  # float32 is exact up to 2**24
    T.LongType: (T.LongType,),  # float64 is exact up to 2**53
    T.FloatType: (T.FloatType, T.DoubleType),
    T.DoubleType: (T.DoubleType,),
}
"""The numbers that hold every value of a type, smallest first."""

_CAST_FROM_INTEGER = (T.NumericType, T.StringType, T.BooleanType, T.NullType)
"""What a null inside a list or struct can become: it is read as an integer (`without_nulls`)."""

_DIGITS: dict[type[T.DataType], int] = {T.ByteType: 3, T.ShortType: 5, T.IntegerType: 10, T.LongType: 19}
_MAX_DIGITS = 38


def column_type(name: str, shards: Mapping[pa.Schema, str], cure: str) -> T.DataType:
    """Return the type of a column of the output.

    Args:
        name: of the column; a shard may lack it.
        shards: the path of one shard for each schema that the files have.
        cure: the flag that helps, with its value; for the text of an error.

    Raises:
        ConfigError: Spark cannot hold a type, or no type holds the values of all shards unchanged.
    """
    found: dict[pa.DataType, str] = {}
    for schema, path in shards.items():
        if (index := schema.get_field_index(name)) >= 0:
            found.setdefault(schema.types[index], path)
    try:
        types = [spark_type(arrow_type) for arrow_type in found]
    except TypeError as exc:
        raise ConfigError(f"column {name!r}: {exc}; {cure}") from exc
    merged: T.DataType | None = T.NullType()
    for data_type in types:
        merged = merged and widen(merged, data_type)
    if merged is None or _have_different_units(found):
        listed = ", ".join(f"{arrow_type} in {path}" for arrow_type, path in found.items())
        raise ConfigError(
            f"column {name!r} has types that do not fit together: none of Spark's holds the values of all "
            f"shards unchanged ({listed}); {cure}"
        )
    return without_nulls(merged, T.StringType())


def widen(one: T.DataType, other: T.DataType) -> T.DataType | None:
    """Return the smallest type that holds every value of both unchanged; None where there is none.

    A struct keeps its fields and their order: a missing field is not filled in.
    """
    if one == other or isinstance(other, T.NullType):
        return one
    if isinstance(one, T.NullType):
        return other
    if isinstance(one, T.DecimalType) or isinstance(other, T.DecimalType):
        return _widen_decimals(one, other)
    if isinstance(one, T.ArrayType) and isinstance(other, T.ArrayType):
        element = _widen_inside(one.elementType, other.elementType)
        return element and T.ArrayType(element)
    if isinstance(one, T.MapType) and isinstance(other, T.MapType):
        key = _widen_inside(one.keyType, other.keyType)
        value = _widen_inside(one.valueType, other.valueType)
        return T.MapType(key, value) if key and value else None
    if isinstance(one, T.StructType) and isinstance(other, T.StructType):
        return _widen_structs(one, other)
    candidates = _HELD_BY.get(type(one), ())
    return next((held() for held in candidates if held in _HELD_BY.get(type(other), ())), None)


def _widen_inside(one: T.DataType, other: T.DataType) -> T.DataType | None:
    for null, known in ((one, other), (other, one)):
        if isinstance(null, T.NullType) and not isinstance(known, _CAST_FROM_INTEGER):
            return None
    return widen(one, other)


def _widen_structs(one: T.StructType, other: T.StructType) -> T.DataType | None:
    types = [_widen_inside(a.dataType, b.dataType) for a, b in zip(one, other, strict=False)]
    if one.names != other.names or None in types:
        return None
    return T.StructType([T.StructField(name, t) for name, t in zip(one.names, types, strict=True) if t])


def _widen_decimals(one: T.DataType, other: T.DataType) -> T.DecimalType | None:
    both = [_as_decimal(one), _as_decimal(other)]
    known = [decimal for decimal in both if decimal]
    scale = max(decimal.scale for decimal in known)
    n_digits = max(decimal.precision - decimal.scale for decimal in known) + scale
    return T.DecimalType(n_digits, scale) if len(known) == 2 and n_digits <= _MAX_DIGITS else None


def _as_decimal(data_type: T.DataType) -> T.DecimalType | None:
    if isinstance(data_type, T.DecimalType):
        return data_type
    n_digits = _DIGITS.get(type(data_type))
    return T.DecimalType(n_digits, 0) if n_digits else None


def _have_different_units(types: Mapping[pa.DataType, str]) -> bool:
    """Say whether durations differ: to Spark they are plain numbers, whatever their unit."""
    shown = [str(arrow_type) for arrow_type in types]
    units = {tuple(part.split("]")[0] for part in text.split("duration[")[1:]) for text in shown}
    return len(units - {()}) > 1
