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
from spark_embed.feed import Outcomes
from spark_embed.fetch import Reference
from spark_embed.schema import BATCH_LIMIT, IMAGE_TYPE, RESULT_TYPE, STATS_TYPE

_STATS_ARROW = to_arrow_type(STATS_TYPE)
_NO_STATS = dict.fromkeys(STATS_TYPE.names, 0)
_IMAGE_ARROW_TYPES = [to_arrow_type(field.dataType) for field in IMAGE_TYPE]

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
    """Build a `RESULT_TYPE` array: one vector per good row, without a copy of the vectors.

    What the rows cost goes on the first of them: the outcomes' seconds, and `stats` beside them; what neither
    names is 0.
    """
    errors = outcomes.errors
    n_rows, dim = len(errors), outcomes.embedding.shape[1]
    is_error = np.fromiter((error is not None for error in errors), dtype=bool, count=n_rows)
    offsets = np.concatenate([[0], np.cumsum(np.where(is_error, 0, dim))]).astype(np.int32)
    embedding = pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.array(outcomes.embedding.reshape(-1)),
        type=pa.list_(pa.field("element", pa.float32(), nullable=False)),
        mask=pa.array(is_error),
    )
    costs = {**_NO_STATS, **outcomes.seconds, BATCH_LIMIT: outcomes.batch_limit, **stats}
    first_row_only = [costs, *[None] * (n_rows - 1)]
    return pa.StructArray.from_arrays(
        [
            embedding,
            pa.array([error.code if error else None for error in errors], pa.string()),
            pa.array([error.detail if error else None for error in errors], pa.string()),
            pa.array(first_row_only, _STATS_ARROW),
        ],
        names=RESULT_TYPE.names,
    )


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
