"""Arrow arrays <-> what the feed takes and gives: rows in, results out; knows no session and no task.

Also pandas frames of the same columns, for Spark before 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pyspark.sql.pandas.types import to_arrow_type
from pyspark.sql.types import StringType

from spark_embed.errors import ERROR_DETAIL_CHARS, ConfigError, RowError
from spark_embed.inference.fetch.read_ahead import Columns
from spark_embed.inference.fetch.references import Reference
from spark_embed.inference.row import Outcomes
from spark_embed.models import Values, join_values
from spark_embed.schema import Results, result_columns, vector_columns
from spark_embed.spark.types import BATCH_LIMIT, IMAGE_TYPE, STATS_TYPE, VECTOR_SPARK_TYPE, result_type

Stats = dict[str, float | str]
"""Values of `STATS_TYPE`, by name."""

OWN_PREFIX = "column."
"""Before the names of own columns in the UDF's input, so that none is taken for a field of `IMAGE_TYPE`."""

_FLOAT_BYTES = 4
_STATS_ARROW = to_arrow_type(STATS_TYPE)
_NO_STATS = {field.name: None if field.dataType == StringType() else 0 for field in STATS_TYPE.fields}
_IMAGE_ARROW_TYPES = [to_arrow_type(field.dataType) for field in IMAGE_TYPE]

VECTOR_TYPE = to_arrow_type(VECTOR_SPARK_TYPE)
"""A vector in a list column, as Spark and other readers know it."""

# Each array that goes back to the JVM costs about 300 microseconds, whatever its length.
_MIN_ROWS_PER_RESULT = 256


def iterate_rows(arrays: Iterator[pa.Array]) -> Iterator[tuple[Reference, Columns]]:
    """Take input arrays apart: references, each with the values of the columns that the model takes.

    The fields are those of `IMAGE_TYPE`, inline bytes staying views into the Arrow buffers, and behind them
    own columns, if the model takes any (`OWN_PREFIX`).

    Raises:
        ConfigError: the images are in a column that is not binary.
    """
    for array in arrays:
        inline = array.field("bytes")
        if not _holds_bytes(inline.type):
            raise ConfigError(
                f"the image column holds {inline.type}; it must be binary, an encoded image a row"
            )
        others = (_values(column, _texts_or_values) for column in map(array.field, IMAGE_TYPE.names[1:]))
        references = map(Reference, _values(inline, _views), *others)
        yield from zip(references, _own_columns(array), strict=False)


def _own_columns(array: pa.StructArray) -> Iterable[Columns]:
    names = [field.name for field in array.type][len(IMAGE_TYPE.names) :]
    if not names:
        return repeat(None)
    values = zip(*(array.field(name).to_pylist() for name in names), strict=True)
    own = [name.removeprefix(OWN_PREFIX) for name in names]
    return (dict(zip(own, row, strict=True)) for row in values)


def _values(column: pa.Array, convert: Callable[[pa.Array], Iterable[Any]]) -> Iterable[Any]:
    """Return a column's values; most columns of references are null from top to bottom."""
    return convert(column) if column.null_count < len(column) else repeat(None, len(column))


def _views(column: pa.Array) -> Iterator[memoryview | None]:
    return (memoryview(value.as_buffer()).cast("B") if value.is_valid else None for value in column)


def _texts_or_values(column: pa.Array) -> Iterable[Any]:
    """Return a column's values, of a binary one as text: paths and urls, whose bytes need not be UTF-8."""
    values: list[Any] = column.to_pylist()
    if _holds_bytes(column.type):
        return (text and text.decode(errors="surrogateescape") for text in values)
    return values


def _holds_bytes(arrow_type: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_null)
    return any(is_kind(arrow_type) for is_kind in kinds)


def join_outcomes(chunks: Iterable[Outcomes]) -> Iterator[Outcomes]:
    """Put chunks together until they have `_MIN_ROWS_PER_RESULT` rows."""
    collected: list[Outcomes] = []
    n_rows = 0
    for chunk in chunks:
        collected.append(chunk)
        n_rows += chunk.n_rows
        if n_rows >= _MIN_ROWS_PER_RESULT:
            yield _concatenated(collected)
            collected, n_rows = [], 0
    if collected:
        yield _concatenated(collected)


def _concatenated(chunks: Sequence[Outcomes]) -> Outcomes:
    first = chunks[0]
    limits = [chunk.batch_limit for chunk in chunks if chunk.batch_limit is not None]
    columns = {
        # A chunk without a good row does not say how long a vector is.
        name: join_values([chunk.columns[name] for chunk in chunks if len(chunk.columns[name])] or [[]])
        for name in first.columns
    }
    return Outcomes(
        columns,
        {name: [error for chunk in chunks for error in chunk.errors[name]] for name in first.errors},
        {name: sum(chunk.seconds[name] for chunk in chunks) for name in first.seconds},
        min(limits, default=None),
    )


def make_result_array(
    outcomes: Outcomes, results: Results, stats: Mapping[str, float | str]
) -> pa.StructArray:
    """Build an array of `result_type(results, packed=True)`, without a copy of the vectors.

    What the rows cost goes on the first of them: the outcomes' seconds, and `stats` beside them; what neither
    names is 0.
    """
    type_ = result_type(results, packed=True)
    n_rows = outcomes.n_rows
    columns, codes = [], []
    for result in results:
        errors = outcomes.errors[result.name]
        is_good = np.fromiter((error is None for error in errors), dtype=bool, count=n_rows)
        for field in result.fields:
            values = outcomes.columns[field.name]
            if field.type == "vector":
                columns.append(_packed_vectors(values, is_good))
            else:
                columns.append(_spread(pa.array(values, to_arrow_type(type_[field.name].dataType)), is_good))
        codes.append(pa.array([error.code if error else None for error in errors], pa.string()))
    rows = _row_errors(outcomes)
    costs = {**_NO_STATS, **outcomes.seconds, BATCH_LIMIT: outcomes.batch_limit, **stats}
    return pa.StructArray.from_arrays(
        [
            *columns,
            *(codes if len(results) > 1 else []),
            codes[0] if len(results) == 1 else pa.array([error and error[0] for error in rows], pa.string()),
            pa.array([error and error[1] for error in rows], pa.string()),
            pa.array([costs, *[None] * (n_rows - 1)], _STATS_ARROW),
        ],
        names=type_.names,
    )


def make_table_results(
    columns: Mapping[str, pa.Array],
    errors: Mapping[int, RowError],
    n_rows: int,
    results: Results,
    costs: Mapping[str, Any],
) -> pa.StructArray:
    """Return the packed results of rows whose columns are Arrow's already, as `make_result_array` does.

    Args:
        columns: by column that the model gives, null in error rows.
        errors: by row.
        n_rows: of each column.
        results: one, which the model gives.
        costs: of the rows, values of `STATS_TYPE`.
    """
    type_ = result_type(results, packed=True)
    given = [columns[name].cast(to_arrow_type(type_[name].dataType)) for name in result_columns(results)]
    codes: Sequence[str | None] = [None]
    details: Sequence[str | None] = [None]
    if errors:
        codes = [error.code if (error := errors.get(row)) else None for row in range(n_rows)]
        details = [error.detail if (error := errors.get(row)) else None for row in range(n_rows)]
    told = pa.concat_arrays(
        [pa.array([{**_NO_STATS, **costs}], _STATS_ARROW), pa.nulls(n_rows - 1, _STATS_ARROW)]
    )
    texts = [
        pa.array(values, pa.string()) if errors else pa.nulls(n_rows, pa.string())
        for values in (codes, details)
    ]
    return pa.StructArray.from_arrays([*given, *texts, told], names=type_.names)


def _row_errors(outcomes: Outcomes) -> list[tuple[str, str] | None]:
    """Return (code, detail) of the rows that have no result at all; of several, the first one's code."""
    if len(outcomes.errors) == 1:
        (errors,) = outcomes.errors.values()
        return [(error.code, error.detail) if error else None for error in errors]
    return [_join_errors(row) for row in zip(*outcomes.errors.values(), strict=True)]


def _join_errors(errors: Sequence[RowError | None]) -> tuple[str, str] | None:
    found = [error for error in errors if error is not None]
    if len(found) < len(errors):
        return None
    details = dict.fromkeys(str(error) for error in found)
    return found[0].code, (found[0].detail if len(details) == 1 else "; ".join(details))[:ERROR_DETAIL_CHARS]


def _packed_vectors(values: Values, is_good: npt.NDArray[np.bool_]) -> pa.BinaryArray:
    """Return the vectors of the good rows as bytes, nulls between them for the others."""
    if not len(values):
        return pa.nulls(len(is_good), pa.binary())
    vectors = np.ascontiguousarray(values, dtype="<f4")
    offsets = np.concatenate([[0], np.cumsum(np.where(is_good, vectors[0].nbytes, 0))]).astype(np.int32)
    validity = pa.array(is_good).buffers()[1]
    return pa.Array.from_buffers(
        pa.binary(), len(is_good), [validity, pa.py_buffer(offsets), pa.py_buffer(vectors.reshape(-1))]
    )


def _spread(values: pa.Array, is_good: npt.NDArray[np.bool_]) -> pa.Array:
    """Return the values of the good rows, nulls between them for the others."""
    if len(values) == len(is_good):
        return values
    positions = pa.array(np.cumsum(is_good) - 1, mask=~is_good)
    return values.take(positions)


def unpack_vectors(packed: pa.BinaryArray) -> pa.ListArray:
    """Return packed vectors as lists of float32, without a copy of the vectors; nulls stay null."""
    if len(packed) == 0:  # without buffers, perhaps
        return pa.array([], VECTOR_TYPE)
    _, offsets, values = packed.buffers()
    offsets_bytes = np.frombuffer(offsets, np.int32)[packed.offset : packed.offset + len(packed) + 1]
    n_values = values.size // _FLOAT_BYTES if values else 0
    flat = pa.Array.from_buffers(pa.float32(), n_values, [None, values])
    return pa.ListArray.from_arrays(
        pa.array(offsets_bytes // _FLOAT_BYTES),
        flat,
        type=VECTOR_TYPE,
        mask=packed.is_null() if packed.null_count else None,
    )


def unpack_results(array: pa.StructArray, results: Results) -> pa.StructArray:
    """Return results as readers know them, vectors as lists."""
    names, vectors = [field.name for field in array.type], vector_columns(results)
    columns = [unpack_vectors(array.field(name)) if name in vectors else array.field(name) for name in names]
    return pa.StructArray.from_arrays(columns, names=names)


def make_input_array(frame: pd.DataFrame) -> pa.StructArray:
    """Return the rows of a frame; its nulls may be None or NaN, its integers floats beside a NaN.

    The type of the images is left as it is found, so that text is seen to be text.
    """
    types = [None, *_IMAGE_ARROW_TYPES[1:]]
    types += [None] * (len(frame.columns) - len(types))
    columns = [
        pa.array(frame[name], arrow_type, from_pandas=True)
        for name, arrow_type in zip(frame.columns, types, strict=True)
    ]
    return pa.StructArray.from_arrays(columns, names=list(frame.columns))


def make_result_frame(array: pa.StructArray) -> pd.DataFrame:
    """Return results as a frame with a column for each field, as Spark takes them before 4.1."""
    return pd.DataFrame({field.name: array.field(field.name).to_pandas() for field in array.type})
