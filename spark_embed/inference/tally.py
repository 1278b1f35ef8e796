"""Rows by outcome, told to the driver by each task when it ends; knows nobody who asks for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import Accumulator, AccumulatorParam
from pyspark.sql import SparkSession

from spark_embed.schema import ERROR

Tally = Accumulator[dict[str, int]]
"""Rows by outcome, "" for a vector, of the tasks that have ended."""

GOOD = ""


def make_tally(spark: SparkSession) -> Tally:
    """Return an empty one; driver only."""
    return spark.sparkContext.accumulator({}, _Counts())


def tallied(results: Iterator[pa.StructArray], tally: Tally | None) -> Iterator[pa.StructArray]:
    """Count the rows of results that pass through by outcome; runs on executors."""
    if tally is None:
        yield from results
        return
    for array in results:
        counts = pc.value_counts(array.field(ERROR)).to_pylist()
        tally.add({row["values"] or GOOD: row["counts"] for row in counts})
        yield array


class _Counts(AccumulatorParam[dict[str, int]]):
    def zero(self, value: dict[str, int]) -> dict[str, int]:
        return {}

    def addInPlace(self, value1: dict[str, int], value2: dict[str, int]) -> dict[str, int]:  # noqa: N802  pyspark's name
        return dict(Counter(value1) + Counter(value2))
