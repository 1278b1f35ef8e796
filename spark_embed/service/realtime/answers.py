"""Answers -> the body of a response: JSON, or float32 as it is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from spark_embed.errors import RowError
from spark_embed.live.model import Answer
from spark_embed.service.realtime.batcher import Done
from spark_embed.service.realtime.refusals import RefusedError, describe_error, refused_row

JSON = "application/json"
FLOAT32 = "application/octet-stream"


def to_json(values: Any) -> bytes:
    """Return plain values as JSON; numpy's arrays and numbers are plain."""
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)


def describe_row(answer: Answer, vectors: Sequence[str]) -> Any:
    """Return a row as JSON has it.

    A model with one vector gives the vector itself; any other an object of its columns. A row without any
    result is `{"error": ...}`; one that lacks some says why in `errors`.
    """
    if answer.error is not None:
        return {"error": _described(answer.error)}
    if set(answer.values) == set(vectors) and len(vectors) == 1 and not answer.errors:
        return answer.values[vectors[0]]
    row = dict(answer.values)
    if answer.errors:
        row["errors"] = {name: _described(error) for name, error in answer.errors.items()}
    return row


def json_body(done: Sequence[Done[Answer]], vectors: Sequence[str], request_id: str, total_s: float) -> bytes:
    """Return the body of /infer.

    `processing_time_ms` is the longest forward pass that had a part in it, `batch_size` the largest.
    """
    return to_json(
        {
            "output": [describe_row(one.answer, vectors) for one in done],
            "request_id": request_id,
            "processing_time_ms": _ms(max(one.predict_s for one in done)),
            "batch_size": max(one.batch_size for one in done),
            "total_time_ms": _ms(total_s),
        }
    )


def check_one_vector(vectors: Sequence[str]) -> None:
    """Refuse to give rows as float32 by a model that has no vector, or several.

    Raises:
        RefusedError: it has.
    """
    if len(vectors) != 1:
        raise RefusedError(
            406,
            "no_vector",
            f"{FLOAT32} is one vector for each row, and this model gives {len(vectors)}: ask for {JSON}",
        )


def float32_body(done: Sequence[Done[Answer]], vectors: Sequence[str]) -> bytes:
    """Return the vectors of all rows, one after the other, float32 little-endian.

    Args:
        done: the rows.
        vectors: the one column with them, as `check_one_vector` has seen.

    Raises:
        RefusedError: a row has none.
    """
    for number, one in enumerate(done):
        if (error := one.answer.errors.get(vectors[0]) or one.answer.error) is not None:
            raise refused_row(error, f"row {number}: ")
    return b"".join(np.asarray(one.answer.values[vectors[0]], dtype="<f4").tobytes() for one in done)


def _described(error: RowError) -> dict[str, Any]:
    return describe_error(error.code, error.detail or error.code)


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
