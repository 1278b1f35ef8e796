"""A session's SparkContext and its JVM: the one file that reaches for them, as Spark Connect has neither."""

from __future__ import annotations

import os
import sys
from typing import Any, TypeVar

from pyspark import Accumulator, AccumulatorParam, SparkConf, SparkContext
from pyspark.sql import SparkSession

from spark_embed.spark.versions import replace_accumulators_error_handler

Value = TypeVar("Value")


def context_of(spark: SparkSession) -> SparkContext:
    """Return the session's context."""
    return spark.sparkContext


def start_context(conf: SparkConf) -> None:
    """Start the JVM, if it does not run, and a context with these settings."""
    SparkContext.getOrCreate(conf)
    # Where the JVM ends, who waits for it says so; this server's thread would print a traceback besides.
    replace_accumulators_error_handler(_ignore)


def _ignore(*_: Any) -> None:
    pass


def is_context_there() -> bool:
    """Say whether somebody has started a context in this process."""
    return SparkContext._active_spark_context is not None


def is_jvm_there() -> bool:
    """Say whether this process has started its JVM, or reached for that of spark-submit."""
    return SparkContext._gateway is not None


def reach_jvm() -> None:
    """Connect to spark-submit's JVM: only then does SparkConf show what that was given."""
    SparkContext._ensure_initialized()


def is_local(spark: SparkSession) -> bool:
    """Say whether tasks run in this machine's one JVM."""
    return str(context_of(spark).master).startswith("local[")


def use_own_python() -> None:
    """Let a context's workers on this machine run the Python that runs here, where nobody has named one.

    By itself PySpark takes the python3 of the PATH, which without an activated environment is another one.
    """
    context = SparkContext._active_spark_context
    if context is None or "PYSPARK_PYTHON" in os.environ or context.getConf().get("spark.pyspark.python"):
        return
    if str(context.master).startswith("local") and not str(context.master).startswith("local-cluster"):
        context.pythonExec = sys.executable


def jvm_of(spark: SparkSession) -> Any:
    """Return the gateway to the driver's JVM."""
    return spark._jvm


def hadoop_settings(spark: SparkSession) -> Any:
    """Return the JVM's Hadoop configuration."""
    return context_of(spark)._jsc.hadoopConfiguration()


def add_jar(spark: SparkSession, path: str) -> None:
    """Let executors in other processes fetch a jar from the driver, before their next task."""
    context_of(spark)._jsc.addJar(path)


def stop_jvm_context(spark: SparkSession) -> None:
    """Stop the JVM's half of the context."""
    context_of(spark)._jsc.stop()


def make_accumulator(spark: SparkSession, value: Value, param: AccumulatorParam[Value]) -> Accumulator[Value]:
    """Return an accumulator, which tasks add to and the driver reads."""
    return context_of(spark).accumulator(value, param)
