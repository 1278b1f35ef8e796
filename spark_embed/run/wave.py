"""One Spark job that embeds some rows into a folder of its own; no shuffle, one Python node."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from statistics import median
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BinaryType, StructType

from spark_embed.errors import ConfigError, StorageError
from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.tally import Tally, count_errors
from spark_embed.inference.udf import make_embed_column, make_input_column
from spark_embed.models import Recipe
from spark_embed.output.executors import Executor, add_executors
from spark_embed.output.records import Counted
from spark_embed.platforms import platform
from spark_embed.schema import (
    EMBEDDING_RESULTS,
    ERROR,
    IMAGE,
    RESULT,
    SHARD,
    Results,
    error_columns,
    result_columns,
)
from spark_embed.spark.s3.s3a import committer_of
from spark_embed.spark.settings import write_parquet
from spark_embed.spark.types import BATCH_LIMIT, STAGE_SECONDS, STATS, TRAFFIC
from spark_embed.storage import (
    is_s3,
    list_files,
    list_names,
    parquet_input,
    read_json,
    read_text,
)

logger = logging.getLogger(__name__)

_READ_THREADS = 16


@dataclass(frozen=True)
class WaveData:
    """What a committed wave left in its folder.

    Attributes:
        files: bytes by name.
        n_rows_by_shard: rows of each shard.
    """

    counted: Counted
    files: dict[str, int]
    n_rows_by_shard: Mapping[str, int]


def embed_table(
    table: DataFrame,
    recipe: Recipe,
    options: FeedOptions,
    profile_dir: str | None = None,
    tally: Tally | None = None,
) -> DataFrame:
    """Return `table` with the reference replaced by the results, vectors packed; nothing runs yet.

    Raises:
        ConfigError: the model takes a column that the data set does not have, or gives one that it has.
    """
    columns, given = recipe.takes.columns, {name.lower() for name in result_columns(recipe.gives)}
    if taken := [name for name in table.columns if name.lower() in given]:
        raise ConfigError(
            f"the data set has a column {taken[0]!r}, which the model gives: leave it out with "
            f"--drop_columns {taken[0]}"
        )
    if missing := [name for name in columns if name not in table.columns]:
        raise ConfigError(
            f"the model takes a column {missing[0]!r} of the data set, which has none of that name, or "
            f"leaves it out (--columns, --drop_columns); there are {', '.join(table.columns)}"
        )
    embed = make_embed_column(recipe, options, profile_dir, packed=True, tally=tally)
    return table.withColumn(RESULT, embed(make_input_column(F.col(IMAGE), columns))).drop(IMAGE)


def run_wave(embedded: DataFrame, folder: str) -> None:
    """Run the job: write `embedded` below `folder`, result struct and all."""
    result = cast(StructType, embedded.schema[RESULT].dataType)
    packed = [field.name for field in result.fields if isinstance(field.dataType, BinaryType)]
    write_parquet(embedded, folder, [f"{RESULT}.{name}" for name in packed])


def check_commit(folder: str) -> None:
    """Warn, once, where Spark has committed a wave on S3 by renaming: slow, and not safe if it is cut off.

    A wave of which that leaves too little is found out by `count_wave`; EMR's and Databricks' own committers
    do not say what they are.
    """
    if is_s3(folder) and not platform() and committer_of(read_text(f"{folder}/_SUCCESS") or "") is None:
        _warn_of_renames()


def _committed(folder: str, names: Iterable[str]) -> list[str]:
    """Return which of a wave's files count where Databricks has committed it.

    What failed attempts at its tasks have written stays beside them; a list has the others, _committed_<id>:
    docs.databricks.com, "Transactional writes to cloud storage with DBIO".
    """
    lists = [name for name in list_names(folder) if name.startswith("_committed_")]
    added = {name for path in lists for name in read_json(f"{folder}/{path}")["added"]}
    return [name for name in names if not lists or name in added]


@cache
def _warn_of_renames() -> None:
    logger.warning(
        "Spark commits to S3 by copying every file (no spark-hadoop-cloud on the class path, or another "
        "committer was chosen): leave out --s3_jars none, or see conf/s3a.conf"
    )


def check_devices(counted: Counted, planned: str) -> None:
    """Warn, once, where the model has run on another kind of device than in preflight."""
    for kind in {kind for executor in counted.executors.values() for kind in executor.device_kinds}:
        if kind != planned:
            _warn_of_device(kind, planned)


@cache
def _warn_of_device(kind: str, planned: str) -> None:
    logger.warning(
        "some executors run the model on %s, though preflight ran on %s: their tasks take longer or shorter "
        "(metadata.json says which: executors); --require_gpu true stops where there is no GPU",
        kind,
        planned,
    )


def count_wave(
    folder: str, results: Results = EMBEDDING_RESULTS, names: Collection[str] | None = None
) -> WaveData:
    """Count the rows of a wave by outcome and by shard; add up what they cost. Reads no vector.

    Args:
        folder: of the wave.
        results: that the model gives.
        names: of the files that count; None: all.

    Raises:
        StorageError: the wave cannot be read.
    """
    files = {file.path: file.n_bytes for file in list_files(folder, ".parquet")}
    if names is not None:
        files = {name: files[name] for name in names}
    elif platform() == "databricks":
        files = {name: files[name] for name in _committed(folder, files)}
    try:
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            paths = [os.path.join(folder, name) for name in files]
            counts = list(pool.map(lambda path: _count_file(path, results), paths))
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{folder}: the wave cannot be read: {exc}") from exc
    whole = _Counts()
    for one in counts:
        whole.add(one)
    by_code, totals, executors = whole.codes, whole.totals, add_executors(whole.executors)
    counted = Counted(
        n_rows=by_code.total(),
        n_errors_by_code={code: by_code[code] for code in sorted(filter(None, by_code))},
        n_errors_by_result={
            result.name: dict(sorted(whole.of_result(result.name))) for result in results if len(results) > 1
        },
        n_tasks=sum(one.n_tasks for one in executors.values()),
        n_model_loads=sum(one.n_model_loads for one in executors.values()),
        stage_s={name: round(totals[name], 3) for name in STAGE_SECONDS},
        batch_limit=min(whole.limits, default=None),
        executors=executors,
        n_rows_again=int(totals["n_rows_again"]),
        longest_task_s=round(max(whole.tasks_s, default=0.0), 3),
        median_task_s=round(median(whole.tasks_s or [0.0]), 3),
        **{name: int(totals[name]) for name in TRAFFIC},
    )
    return WaveData(counted, files, whole.shards)


@dataclass
class _Counts:
    """Rows by code and by shard, errors by (result, code), totals by name, and what cannot be added up.

    Attributes:
        limits: of batches.
        tasks_s: seconds of each task, without the model's loading.
    """

    codes: Counter[str | None] = field(default_factory=Counter)
    shards: Counter[str] = field(default_factory=Counter)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    limits: list[int] = field(default_factory=list)
    tasks_s: list[float] = field(default_factory=list)
    executors: list[tuple[str, Executor]] = field(default_factory=list)

    def add(self, other: _Counts) -> None:
        for name in ("codes", "shards", "errors", "totals"):
            getattr(self, name).update(getattr(other, name))
        self.limits += other.limits
        self.tasks_s += other.tasks_s
        self.executors += other.executors

    def of_result(self, result: str) -> Iterator[tuple[str, int]]:
        return ((code, number) for (name, code), number in self.errors.items() if name == result)


def _count_file(path: str, results: Results) -> _Counts:
    """Count one file's rows: those of one task."""
    found = _Counts()
    names = [*error_columns(results), ERROR, STATS]
    columns = [SHARD, *(f"{RESULT}.{name}" for name in names)]
    with pq.ParquetFile(parquet_input(path)) as file:
        for batch in file.iter_batches(1 << 16, columns=columns):
            result = batch.column(RESULT)
            found.codes.update(_counts(result.field(ERROR)))
            if len(results) > 1:
                found.errors.update(count_errors(result, results))
            found.shards.update(_counts(batch.column(SHARD)))
            stats = result.field(STATS).drop_null()
            found.limits += stats.field(BATCH_LIMIT).drop_null().to_pylist()
            for name in (*STAGE_SECONDS, *TRAFFIC, "n_rows_again", "task_s"):
                found.totals[name] += pc.sum(stats.field(name), min_count=0).as_py()
            found.executors += add_executors(_executors_of(stats)).items()
    if found.codes:
        found.tasks_s.append(found.totals["task_s"] - found.totals["load_s"])
    return found


def _executors_of(stats: pa.StructArray) -> Iterator[tuple[str, Executor]]:
    names = ("executor", "n_tasks", "n_rows", "n_model_loads", "device", "task_s")
    rows = zip(*(stats.field(name).to_pylist() for name in names), strict=True)
    for name, n_tasks, n_rows, n_loads, device, task_s in rows:
        yield name, Executor(n_tasks, n_rows, n_loads, (device,), task_s)


def _counts(column: pa.Array) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in pc.value_counts(column).to_pylist()}
