"""How tables are read and written with Spark: the settings that this takes, and the vectors' encoding."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from spark_embed.spark.cluster.conf import EXECUTOR_CORES, EXECUTOR_GPUS, TASK_CPUS, TASK_GPUS, number
from spark_embed.spark.context import default_parallelism, is_local, what_is_lost
from spark_embed.storage import hadoop_path

TASK_BYTES, _TASK_BYTES_DEFAULT = "spark.sql.files.maxPartitionBytes", "134217728b"

logger = logging.getLogger(__name__)

# Bytes of images that may be under way between the JVM and one Python worker in one Arrow batch.
_ARROW_BATCH_BYTES = 16 << 20
_MIN_RECORDS, _MAX_RECORDS = 8, 256

_LISTING_TASKS = 32


def table_settings(bytes_per_row: float, *, n_slots: int = 1, plain_reader: bool = False) -> dict[str, str]:
    """Return the SQL settings of a run over rows of about this size, in a session of so many tasks at once.

    With `plain_reader` parquet is read row by row: slower, and of more encodings.

    Spark's defaults (10,000 rows in an Arrow batch, 4,096 in a parquet batch) are made for numbers:
    with images of 110 KB the first is over a gigabyte.
    """
    records = str(round(min(max(_ARROW_BATCH_BYTES / max(bytes_per_row, 1), _MIN_RECORDS), _MAX_RECORDS)))
    return {
        **({"spark.sql.parquet.enableVectorizedReader": "false"} if plain_reader else {}),
        "spark.sql.execution.arrow.maxRecordsPerBatch": records,
        "spark.sql.parquet.columnarReaderBatchSize": records,
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # INT96, the default, is deprecated
        # Dates before 1582 as they are: some versions refuse to write them unless told.
        "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
        # A file may hold Url beside url: with one of them left out, Spark must read the other by its name.
        "spark.sql.caseSensitive": "true",
        # To list a wave's files Spark would start up to 10,000 tasks, of which most would wait.
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": str(max(n_slots, _LISTING_TASKS)),
        # A file that cannot be read must stop the job: skipping it would lose rows without a word.
        "spark.sql.files.ignoreCorruptFiles": "false",
        "spark.sql.files.ignoreMissingFiles": "false",
    }


def count_slots(spark: SparkSession) -> tuple[int, int]:
    """Return how many tasks the session runs at once, by its cores and GPUs, and the cores of each."""
    values = {name: setting(spark, name) for name in (TASK_CPUS, TASK_GPUS, EXECUTOR_CORES, EXECUTOR_GPUS)}
    conf = {name: value for name, value in values.items() if value}
    task_cpus = int(number(conf, TASK_CPUS, 1))
    n_slots = default_parallelism(spark) // task_cpus
    by_cores = number(conf, EXECUTOR_CORES, 0) // task_cpus
    if by_cores and (amount := number(conf, TASK_GPUS, 0)) and (gpus := number(conf, EXECUTOR_GPUS, 0)):
        n_slots = int(n_slots * min(1, gpus // amount / by_cores))
    return max(1, n_slots), task_cpus


def count_executors(spark: SparkSession, n_slots: int) -> int | None:
    """Return how many executors run so many tasks at once; None where their cores are not set."""
    if is_local(spark):
        return 1
    values = {name: setting(spark, name) for name in (TASK_CPUS, EXECUTOR_CORES)}
    conf = {name: value for name, value in values.items() if value}
    per_executor = number(conf, EXECUTOR_CORES, 0) // number(conf, TASK_CPUS, 1)
    return math.ceil(n_slots / per_executor) if per_executor else None


def is_task_size_set(spark: SparkSession) -> bool:
    """Say whether somebody has chosen how large tasks are."""
    return (setting(spark, TASK_BYTES) or _TASK_BYTES_DEFAULT) != _TASK_BYTES_DEFAULT


def setting(spark: SparkSession, name: str) -> str | None:
    """Return a setting; None if nobody has set it, or the platform keeps it to itself."""
    try:
        return spark.conf.get(name, None)
    except (PySparkException, Py4JError) as exc:
        if what_is_lost(exc):
            raise
        return None


@contextmanager
def settings(spark: SparkSession, values: dict[str, str]) -> Iterator[None]:
    """Set SQL settings inside a `with` block and put the old ones back: the session may be the user's.

    A setting that the platform does not allow to change is left alone.
    """
    before: dict[str, str | None] = {}
    refused: dict[str, str] = {}
    for name, value in values.items():
        old = setting(spark, name)
        if old == value:
            continue
        try:
            spark.conf.set(name, value)
            before[name] = old
        except (PySparkException, Py4JError) as exc:
            refused[f"{name} {value}"] = str(exc).partition("\n")[0]
    if refused:
        _warn_of_refused(", ".join(refused), next(iter(refused.values())))
    try:
        yield
    except (PySparkException, Py4JError, ConnectionError) as exc:
        if what_is_lost(exc):
            before.clear()  # to ask a Connect server that is away takes ten minutes each
        raise
    finally:
        for name, old in before.items():
            if old is None:
                spark.conf.unset(name)
            else:
                spark.conf.set(name, old)


@cache
def _warn_of_refused(names: str, why: str) -> None:
    logger.warning("this platform keeps its own settings where a run would have %s (%s)", names, why)


def read_parquet(spark: SparkSession, paths: Iterable[str], schema: StructType | None = None) -> DataFrame:
    """Return what these files hold, of `schema` or of their own."""
    reader = spark.read.option("__globPaths__", "false")  # x[1].parquet is a name, not a pattern
    reader = reader.option(
        "recursiveFileLookup", "true"
    )  # else [ or * in a folder's name multiplies the rows
    return (reader if schema is None else reader.schema(schema)).parquet(*map(hadoop_path, paths))


def write_parquet(frame: DataFrame, folder: str, vector_columns: Iterable[str]) -> None:
    """Write a frame whose packed vectors are in `vector_columns`.

    A dictionary of vectors is wasted work: hardly two are equal.
    """
    writer = frame.write.mode("overwrite")
    for column in vector_columns:
        writer = writer.option(f"parquet.enable.dictionary#{column}", "false")
    writer.parquet(hadoop_path(folder))
