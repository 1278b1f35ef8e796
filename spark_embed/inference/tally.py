"""Rows and errors, told to the driver by each task when it ends; knows nobody who asks for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import Accumulator, AccumulatorParam
from pyspark.sql import SparkSession

from spark_embed.schema import ERROR, Results, error_column
from spark_embed.spark.context import make_accumulator

Tally = Accumulator[Counter[tuple[str, str]]]
"""Errors by (result, code) of the tasks that have ended, and their rows as `ROWS`."""

ROWS = ("", "")


def make_tally(spark: SparkSession) -> Tally:
    """Return an empty one; driver only."""
    return make_accumulator(spark, Counter(), _Counts())


def tallied(
    arrays: Iterator[pa.StructArray], results: Results, tally: Tally | None
) -> Iterator[pa.StructArray]:
    """Count the rows of results that pass through; runs on executors."""
    if tally is None:
        yield from arrays
        return
    for array in arrays:
        add_to_tally(tally, array, results)
        yield array


def add_to_tally(tally: Tally, array: pa.StructArray, results: Results) -> None:
    """Count some rows of results."""
    tally.add(Counter({ROWS: len(array)}) + count_errors(array, results))


def count_errors(array: pa.StructArray, results: Results) -> Counter[tuple[str, str]]:
    """Return how many rows lack each result, by (result, code)."""
    counts = Counter[tuple[str, str]]()
    for result in results:
        codes = array.field(ERROR if len(results) == 1 else error_column(result.name)).drop_null()
        for one in pc.value_counts(codes).to_pylist():
            counts[result.name, one["values"]] += one["counts"]
    return counts


class _Counts(AccumulatorParam[Counter[tuple[str, str]]]):
    def zero(self, value: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
        return Counter()

    def addInPlace(  # noqa: N802  pyspark's name
        self, value1: Counter[tuple[str, str]], value2: Counter[tuple[str, str]]
    ) -> Counter[tuple[str, str]]:
        return value1 + value2
