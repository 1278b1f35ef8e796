"""A function of ours over some items, in a Spark task each; what it returns comes back as JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from spark_embed.errors import ConfigError, SparkEmbedError, fatal_error_named
from spark_embed.spark.context import is_connect, worker_python
from spark_embed.storage import Traffic, traffic

Item = TypeVar("Item")

ANSWER = "answer"

_LACKING = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")

traffic_of_tasks = Traffic()
"""What these tasks have asked S3 for, by the workers' own count; kept on the driver."""


def run_tasks(spark: SparkSession, function: Callable[[Item], Any], items: Sequence[Item]) -> list[Any]:
    """Return `function(item)` of every item, in order; runs on the executors, one task for each.

    Function and items are pickled: an importable function, items that are plain data. An exception that is
    none of ours fails the task, which Spark then tries again.

    Raises:
        SparkEmbedError: what the function raised, for the first item.
        ConfigError: the workers' Python lacks a package, this one maybe.
    """

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for index in batch.column(0).to_pylist():
                yield pa.RecordBatch.from_pydict(
                    {ANSWER: [json.dumps([index, *_call(function, items[index])])]}
                )

    n_items = len(items)
    try:
        rows = spark.range(0, n_items, 1, n_items).mapInArrow(run, f"{ANSWER} string").collect()
    except (PySparkException, Py4JJavaError) as exc:
        if lacking := _LACKING.search(str(exc)):
            raise ConfigError(_explain_lack(spark, lacking[1])) from exc
        raise
    answers = sorted((json.loads(row[ANSWER]) for row in rows), key=lambda answer: answer[0])
    for *_, asked in answers:
        traffic_of_tasks.add(**asked)
    for _, _, error, _ in answers:
        if error:
            raise fatal_error_named(error[0])(error[1])
    return [answer for _, answer, _, _ in answers]


def _explain_lack(spark: SparkSession, package: str) -> str:
    where = " of the server" if is_connect(spark) else ""
    return (
        f"the workers' Python ({worker_python(spark)}) has no {package}: install it there, or set "
        f"PYSPARK_PYTHON{where} to one that has it (this program's is {sys.executable})"
    )


def _call(function: Callable[[Item], Any], item: Item) -> tuple[Any, tuple[str, str] | None, dict[str, int]]:
    """Return the function's answer or None, None or its error by name and text, and what it asked S3 for."""
    traffic.take()  # of the worker's task before
    answer = error = None
    try:
        answer = function(item)
    except SparkEmbedError as exc:
        error = type(exc).__name__, str(exc)
    return answer, error, traffic.take()
