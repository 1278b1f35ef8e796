"""How tables are read and written with Spark: the settings that this takes, and the vectors' encoding."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from spark_embed.spark.context import default_parallelism, what_is_lost

_TASK_BYTES, _TASK_BYTES_DEFAULT = "spark.sql.files.maxPartitionBytes", "134217728b"
_MIN_TASKS_PER_SLOT = 4
_MIN_TASK_S, _MAX_TASK_S = 2.0, 60.0
_OPEN_FILE_S = 0.02
_SLACK = 1.01  # files that just fill a task should not be cut by a few bytes

logger = logging.getLogger(__name__)

# Bytes of images that may be under way between the JVM and one Python worker in one Arrow batch.
_ARROW_BATCH_BYTES = 16 << 20
_MIN_RECORDS, _MAX_RECORDS = 8, 256


@dataclass(frozen=True)
class Rate:
    """How fast a session embeds, by preflight's sample: seconds of one task a row, and tasks at once."""

    row_s: float
    n_slots: int


def table_settings(bytes_per_row: float, *, plain_reader: bool = False) -> dict[str, str]:
    """Return the SQL settings of a run over rows of about this size.

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
        # To list a wave's files Spark would start up to 10,000 tasks.
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "32",
        # A file that cannot be read must stop the job: skipping it would lose rows without a word.
        "spark.sql.files.ignoreCorruptFiles": "false",
        "spark.sql.files.ignoreMissingFiles": "false",
    }


def count_slots(spark: SparkSession) -> tuple[int, int]:
    """Return how many tasks the session runs at once, and the cores of each."""
    task_cpus = int(_setting(spark, "spark.task.cpus") or 1)
    return max(1, default_parallelism(spark) // task_cpus), task_cpus


def is_task_size_set(spark: SparkSession) -> bool:
    """Say whether somebody has chosen how large tasks are."""
    return (_setting(spark, _TASK_BYTES) or _TASK_BYTES_DEFAULT) != _TASK_BYTES_DEFAULT


def _setting(spark: SparkSession, name: str) -> str | None:
    """Return a setting; None if nobody has set it, or the platform keeps it to itself."""
    try:
        return spark.conf.get(name, None)
    except (PySparkException, Py4JError) as exc:
        if what_is_lost(exc):
            raise
        return None


def task_settings(n_bytes: int, n_rows: int, n_files: int, rate: Rate) -> dict[str, str]:
    """Return the SQL settings that cut such an input into tasks of 10 to 60 s, shorter in a short run.

    A task costs some 0.1 s besides its rows, and a slot that is done before the others waits for them:
    each slot gets at least four tasks, as long as they take 2 s.
    """
    row_s = max(rate.row_s, 1e-6)
    run_s = n_rows * row_s / rate.n_slots
    task_s = min(max(run_s / _MIN_TASKS_PER_SLOT, _MIN_TASK_S), _MAX_TASK_S)
    n_tasks = rate.n_slots * max(1, round(run_s / task_s))
    open_bytes = math.ceil(_OPEN_FILE_S / row_s * n_bytes / max(n_rows, 1))
    task_bytes = math.ceil((n_bytes + n_files * open_bytes) / n_tasks * _SLACK)
    return {
        _TASK_BYTES: str(task_bytes),
        "spark.sql.files.openCostInBytes": str(open_bytes),
        "spark.sql.files.minPartitionNum": "1",  # else the number of slots, which would cut tasks smaller
    }


@contextmanager
def settings(spark: SparkSession, values: dict[str, str]) -> Iterator[None]:
    """Set SQL settings inside a `with` block and put the old ones back: the session may be the user's.

    A setting that the platform does not allow to change is left alone.
    """
    before: dict[str, str | None] = {}
    for name, value in values.items():
        old = _setting(spark, name)
        try:
            spark.conf.set(name, value)
            before[name] = old
        except (PySparkException, Py4JError) as exc:
            why = str(exc).partition("\n")[0]
            logger.warning("%s stays at %s: this platform does not let it be set (%s)", name, old, why)
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


def write_parquet(frame: DataFrame, folder: str, vector_columns: Iterable[str]) -> None:
    """Write a frame whose packed vectors are in `vector_columns`.

    A dictionary of vectors is wasted work: hardly two are equal.
    """
    writer = frame.write.mode("overwrite")
    for column in vector_columns:
        writer = writer.option(f"parquet.enable.dictionary#{column}", "false")
    writer.parquet(folder)
