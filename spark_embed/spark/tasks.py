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

from spark_embed.errors import ConfigError, SparkEmbedError, fatal_error_named, one_line
from spark_embed.spark.context import worker_python
from spark_embed.storage import Traffic, traffic

Item = TypeVar("Item")

ANSWER = "answer"

_LACKING = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")
_BROKEN = re.compile(
    r"^(?:ImportError|OSError): (.*(?:shared object|undefined symbol|GLIBC).*)$", re.MULTILINE
)
_OTHER_PYTHON = re.compile(r"different version:? ([\d.]+) than that in driver:? ([\d.]+)")
_NO_PYTHON = re.compile(r'Cannot run program "')
_HOST = re.compile(r"\(TID \d+\) \((\S+) executor \w+\)")

traffic_of_tasks = Traffic()
"""What these tasks have asked S3 for, by the workers' own count; kept on the driver."""


def run_tasks(spark: SparkSession, function: Callable[[Item], Any], items: Sequence[Item]) -> list[Any]:
    """Return `function(item)` of every item, in order; runs on the executors, one task for each.

    Function and items are pickled: an importable function, items that are plain data. An exception that is
    none of ours fails the task, which Spark then tries again.

    Raises:
        SparkEmbedError: what the function raised, for the first item.
        ConfigError: the workers' Python lacks a package, this one maybe, or is none that fits the driver's.
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
        if cause := explain_python(worker_python(spark), str(exc)):
            raise ConfigError(cause) from exc
        raise
    answers = sorted((json.loads(row[ANSWER]) for row in rows), key=lambda answer: answer[0])
    for *_, asked in answers:
        traffic_of_tasks.add(**asked)
    for _, _, error, _ in answers:
        if error:
            raise fatal_error_named(error[0])(error[1])
    return [answer for _, answer, _, _ in answers]


def explain_python(python: str, failure: str) -> str | None:
    """Return what is wrong with the workers' Python, if that is why Spark says that tasks failed."""
    if host := _HOST.search(failure):
        python += f" on {host[1]}"
    if lacking := _LACKING.search(failure):
        return (
            f"the workers' Python ({python}) has no {lacking[1]}: install it there, or set "
            f"spark.pyspark.python or PYSPARK_PYTHON to one that has it (this program's is {sys.executable})"
        )
    if broken := _BROKEN.search(failure):
        return (
            f"the workers' Python ({python}) cannot import a package that it has: {one_line(broken[1])}; "
            "mend it there, or set spark.pyspark.python or PYSPARK_PYTHON to one that can"
        )
    if other := _OTHER_PYTHON.search(failure):
        return (
            f"the workers' Python ({python}) is {other[1]}, the driver's is {other[2]}, and functions cannot "
            "go from one to the other: set spark.pyspark.python or PYSPARK_PYTHON to the same on all machines"
        )
    if _NO_PYTHON.search(failure):
        return (
            f"the workers' Python ({python}) is not there: set spark.pyspark.python or PYSPARK_PYTHON to one "
            "that is"
        )
    return None


def _call(function: Callable[[Item], Any], item: Item) -> tuple[Any, tuple[str, str] | None, dict[str, int]]:
    """Return the function's answer or None, None or its error by name and text, and what it asked S3 for."""
    traffic.take()  # of the worker's task before
    answer = error = None
    try:
        answer = function(item)
    except SparkEmbedError as exc:
        error = type(exc).__name__, str(exc)
    return answer, error, traffic.take()
