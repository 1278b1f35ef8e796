"""A function of ours over some items, in a Spark task each; what it returns comes back as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
from pyspark.sql import SparkSession

Item = TypeVar("Item")

ANSWER = "answer"


def run_tasks(spark: SparkSession, function: Callable[[Item], Any], items: Sequence[Item]) -> list[Any]:
    """Return `function(item)` of every item, in order; runs on the executors, one task for each.

    Function and items are pickled: an importable function, items that are plain data. An exception fails
    the task, which Spark then tries again.
    """

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for index in batch.column(0).to_pylist():
                answer = json.dumps([index, function(items[index])])
                yield pa.RecordBatch.from_pydict({ANSWER: [answer]})

    n_items = len(items)
    rows = spark.range(0, n_items, 1, n_items).mapInArrow(run, f"{ANSWER} string").collect()
    return [answer for _, answer in sorted(json.loads(row[ANSWER]) for row in rows)]
