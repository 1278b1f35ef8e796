"""Arrow arrays <-> what the feed takes and gives: references in, results out; knows no session and no task.

Also pandas frames of the same columns, for Spark before 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql.pandas.types import to_arrow_type

from spark_embed.errors import ConfigError
from spark_embed.inference.feed import Outcomes
from spark_embed.inference.fetch.references import Reference
from spark_embed.schema import EMBEDDING
from spark_embed.spark.types import BATCH_LIMIT, IMAGE_TYPE, RESULT_TYPE, STATS_TYPE, VECTOR_SPARK_TYPE

_FLOAT_BYTES = 4
_STATS_ARROW = to_arrow_type(STATS_TYPE)
_NO_STATS = dict.fromkeys(STATS_TYPE.names, 0)
_IMAGE_ARROW_TYPES = [to_arrow_type(field.dataType) for field in IMAGE_TYPE]

VECTOR_TYPE = to_arrow_type(VECTOR_SPARK_TYPE)
"""A vector in a list column, as Spark and other readers know it."""

# Each array that goes back to the JVM costs about 300 microseconds, whatever its length.
_MIN_ROWS_PER_RESULT = 256


def iterate_references(arrays: Iterator[pa.Array]) -> Iterator[Reference]:
    """Take the rows of `IMAGE_TYPE` arrays apart; inline bytes stay views into the Arrow buffers.

    Raises:
        ConfigError: the images are in a column that is not binary.
    """
    for array in arrays:
        inline = array.field("bytes")
        if not _holds_bytes(inline.type):
            raise ConfigError(
                f"the image column holds {inline.type}; it must be binary, an encoded image a row"
            )
        others = (_values(array.field(name), pa.Array.to_pylist) for name in IMAGE_TYPE.names[2:])
        yield from map(
            Reference, _values(inline, _views), _values(array.field("uri"), _decoded_texts), *others
        )


def _values(column: pa.Array, convert: Callable[[pa.Array], Iterable[Any]]) -> Iterable[Any]:
    """Return a column's values; most columns of references are null from top to bottom."""
    return convert(column) if column.null_count < len(column) else repeat(None, len(column))


def _views(column: pa.Array) -> Iterator[memoryview | None]:
    return (memoryview(value.as_buffer()).cast("B") if value.is_valid else None for value in column)


def _decoded_texts(column: pa.Array) -> Iterator[str | None]:
    return (text and text.decode(errors="replace") for text in column.to_pylist())


def _holds_bytes(arrow_type: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_null)
    return any(is_kind(arrow_type) for is_kind in kinds)


def join_outcomes(chunks: Iterable[Outcomes]) -> Iterator[Outcomes]:
    """Put chunks together until they have `_MIN_ROWS_PER_RESULT` rows."""
    collected: list[Outcomes] = []
    n_rows = 0
    for chunk in chunks:
        collected.append(chunk)
        n_rows += len(chunk.errors)
        if n_rows >= _MIN_ROWS_PER_RESULT:
            yield _concatenated(collected)
            collected, n_rows = [], 0
    if collected:
        yield _concatenated(collected)


def _concatenated(chunks: Sequence[Outcomes]) -> Outcomes:
    limits = [chunk.batch_limit for chunk in chunks if chunk.batch_limit is not None]
    return Outcomes(
        np.concatenate([chunk.embedding for chunk in chunks]),
        [error for chunk in chunks for error in chunk.errors],
        {name: sum(chunk.seconds[name] for chunk in chunks) for name in chunks[0].seconds},
        min(limits, default=None),
    )


def make_result_array(outcomes: Outcomes, stats: Mapping[str, float]) -> pa.StructArray:
    """Build a `PACKED_RESULT_TYPE` array: one vector per good row, without a copy of the vectors.

    What the rows cost goes on the first of them: the outcomes' seconds, and `stats` beside them; what neither
    names is 0.
    """
    errors = outcomes.errors
    n_rows = len(errors)
    costs = {**_NO_STATS, **outcomes.seconds, BATCH_LIMIT: outcomes.batch_limit, **stats}
    first_row_only = [costs, *[None] * (n_rows - 1)]
    return pa.StructArray.from_arrays(
        [
            _packed_vectors(outcomes),
            pa.array([error.code if error else None for error in errors], pa.string()),
            pa.array([error.detail if error else None for error in errors], pa.string()),
            pa.array(first_row_only, _STATS_ARROW),
        ],
        names=RESULT_TYPE.names,
    )


def _packed_vectors(outcomes: Outcomes) -> pa.BinaryArray:
    vectors = np.ascontiguousarray(outcomes.embedding, dtype="<f4")
    n_rows, row_bytes = len(outcomes.errors), vectors.shape[1] * vectors.itemsize
    is_good = np.fromiter((error is None for error in outcomes.errors), dtype=bool, count=n_rows)
    offsets = np.concatenate([[0], np.cumsum(np.where(is_good, row_bytes, 0))]).astype(np.int32)
    validity = pa.array(is_good).buffers()[1]
    return pa.Array.from_buffers(
        pa.binary(), n_rows, [validity, pa.py_buffer(offsets), pa.py_buffer(vectors.reshape(-1))]
    )


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


def unpack_results(results: pa.StructArray) -> pa.StructArray:
    """Return a `PACKED_RESULT_TYPE` array as one of `RESULT_TYPE`."""
    columns = [results.field(name) for name in RESULT_TYPE.names]
    columns[RESULT_TYPE.names.index(EMBEDDING)] = unpack_vectors(results.field(EMBEDDING))
    return pa.StructArray.from_arrays(columns, names=RESULT_TYPE.names)


def make_reference_array(frame: pd.DataFrame) -> pa.StructArray:
    """Return the references of a frame; its nulls may be None or NaN, its integers floats beside a NaN.

    The type of the images is left as it is found, so that text is seen to be text.
    """
    types = [None, *_IMAGE_ARROW_TYPES[1:]]
    columns = [
        pa.array(frame[name], arrow_type, from_pandas=True)
        for name, arrow_type in zip(IMAGE_TYPE.names, types, strict=True)
    ]
    return pa.StructArray.from_arrays(columns, names=IMAGE_TYPE.names)


def make_result_frame(results: pa.StructArray) -> pd.DataFrame:
    """Return results as a frame with a column for each field, as Spark takes them before 4.1."""
    return pd.DataFrame({name: results.field(name).to_pandas() for name in RESULT_TYPE.names})
