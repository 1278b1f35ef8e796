"""A session's SparkContext and its JVM: the one file that reaches for them, and knows who has none."""

from __future__ import annotations

import os
import re
import sys
from typing import Any, TypeVar

from py4j.protocol import Py4JError, Py4JNetworkError
from pyspark import Accumulator, AccumulatorParam, SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_embed.platforms import platform
from spark_embed.spark.versions import replace_accumulators_error_handler

Value = TypeVar("Value")

# How pyspark's words begin when a Connect server has been away for too long, or has forgotten the session.
_SERVER_LOST = re.compile(
    r"<\w+ of RPC that terminated with:\s+status = StatusCode\.UNAVAILABLE"
    r"|(?:\([\w.]+\) )?\[(?:NO_ACTIVE_SESSION|INVALID_HANDLE\.SESSION_\w+|RETRIES_EXCEEDED)\]"
)
# What Spark says of jobs under way, and of further calls, once it has stopped its context: the application
# was killed, by somebody (yarn application -kill, the master's page) or by YARN.
_CONTEXT_STOPPED = re.compile(
    r"because SparkContext was shut down|SparkContext has been shutdown"
    r"|Cannot call methods on a stopped SparkContext"
)
_MAX_PARTITIONS = 1 << 16


def is_connect(spark: SparkSession) -> bool:
    """Say whether this is a session of a Spark Connect server: without context, JVM and static settings.

    Its class is no kind of `SparkSession`, and cannot be imported where grpcio is missing.
    """
    return type(spark).__module__.startswith("pyspark.sql.connect")


def remote_url() -> str | None:
    """Return where the environment says that a Spark Connect server is, if it does."""
    return os.environ.get("SPARK_REMOTE")


def what_is_lost(exc: Exception) -> str | None:
    """Return what has ended, if an exception means that: the JVM, its application, or the Connect server."""
    if isinstance(exc, Py4JNetworkError | ConnectionError):
        return "Spark's JVM"
    try:
        said = str(exc)
    except (Py4JError, OSError):  # the JVM, which is asked for the text
        return "Spark's JVM"
    if _CONTEXT_STOPPED.search(said):
        return "Spark's application"
    if isinstance(exc, PySparkException) and _SERVER_LOST.match(said):
        return "the Spark Connect server, or this session of it,"
    return None


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


def is_session_there() -> bool:
    """Say whether somebody has started Spark in this process, or connected it to a server."""
    return SparkContext._active_spark_context is not None or SparkSession.getActiveSession() is not None


def find_session() -> SparkSession | None:
    """Return the session that somebody else has begun in this process, if anybody has.

    To Spark a session is active in the thread that began it; other threads share it all the same. On
    Databricks there always is one.
    """
    active = SparkSession.getActiveSession()
    if active is None and (is_session_there() or platform() == "databricks"):
        return SparkSession.builder.getOrCreate()
    return active


def is_jvm_there() -> bool:
    """Say whether this process has started its JVM, or reached for that of spark-submit."""
    return SparkContext._gateway is not None


def reach_jvm() -> None:
    """Connect to spark-submit's JVM: only then does SparkConf show what that was given."""
    SparkContext._ensure_initialized()


def is_local(spark: SparkSession) -> bool:
    """Say whether tasks run in this machine's one JVM; where a Connect server is, it does not say."""
    return not is_connect(spark) and str(context_of(spark).master).startswith("local[")


def default_parallelism(spark: SparkSession) -> int:
    """Return how many cores the session has now, as far as Spark knows."""
    if is_connect(spark):
        return count_partitions(spark.range(_MAX_PARTITIONS))  # by default as many as there are cores
    return context_of(spark).defaultParallelism


def count_partitions(table: DataFrame) -> int:
    """Return how many tasks would read a table; on Spark Connect they have to run, to count themselves."""
    if is_connect(table.sparkSession):
        return table.select(F.spark_partition_id()).distinct().count()
    return table.rdd.getNumPartitions()


def worker_python(spark: SparkSession) -> str:
    """Return the Python that runs in workers, or who knows it."""
    return "the Spark Connect server's" if is_connect(spark) else context_of(spark).pythonExec


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
