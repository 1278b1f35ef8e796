"""A function of ours over some items, in a Spark task each; what it returns comes back as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
from pyspark.sql import SparkSession

from spark_embed.errors import SparkEmbedError, fatal_error_named

Item = TypeVar("Item")

ANSWER = "answer"


def run_tasks(spark: SparkSession, function: Callable[[Item], Any], items: Sequence[Item]) -> list[Any]:
    """Return `function(item)` of every item, in order; runs on the executors, one task for each.

    Function and items are pickled: an importable function, items that are plain data. An exception that is
    none of ours fails the task, which Spark then tries again.

    Raises:
        SparkEmbedError: what the function raised, for the first item.
    """

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for index in batch.column(0).to_pylist():
                yield pa.RecordBatch.from_pydict(
                    {ANSWER: [json.dumps([index, *_call(function, items[index])])]}
                )

    n_items = len(items)
    rows = spark.range(0, n_items, 1, n_items).mapInArrow(run, f"{ANSWER} string").collect()
    answers = sorted((json.loads(row[ANSWER]) for row in rows), key=lambda answer: answer[0])
    for _, _, error in answers:
        if error:
            raise fatal_error_named(error[0])(error[1])
    return [answer for _, answer, _ in answers]


def _call(function: Callable[[Item], Any], item: Item) -> tuple[Any, tuple[str, str] | None]:
    """Return the function's answer and no error, or no answer and the error by name and text."""
    try:
        return function(item), None
    except SparkEmbedError as exc:
        return None, (type(exc).__name__, str(exc))
