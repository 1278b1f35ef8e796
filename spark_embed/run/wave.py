"""One Spark job that embeds some rows into a folder of its own; no shuffle, one Python node."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_embed.errors import StorageError
from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.tally import Tally
from spark_embed.inference.udf import make_embed_column
from spark_embed.models import Recipe
from spark_embed.output.records import Counted
from spark_embed.platforms import platform
from spark_embed.schema import EMBEDDING, ERROR, IMAGE, RESULT, SHARD
from spark_embed.spark.s3.s3a import committer_of
from spark_embed.spark.settings import write_parquet
from spark_embed.spark.types import BATCH_LIMIT, STAGE_SECONDS, STATS, STATS_TYPE, TRAFFIC
from spark_embed.storage import is_s3, list_files, parquet_input, read_text

logger = logging.getLogger(__name__)

_READ_THREADS = 16


@dataclass(frozen=True)
class WaveData:
    """What a committed wave left in its folder.

    Attributes:
        files: bytes by name.
        n_rows_by_shard: rows of each of the shards that were to be counted.
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
    """Return `table` with the reference replaced by the result, vectors packed; nothing runs yet."""
    result = make_embed_column(recipe, options, profile_dir, packed=True, tally=tally)(F.col(IMAGE))
    return table.withColumn(RESULT, result).drop(IMAGE)


def run_wave(embedded: DataFrame, folder: str) -> None:
    """Run the job: write `embedded` below `folder`, result struct and all."""
    write_parquet(embedded, folder, f"{RESULT}.{EMBEDDING}")


def check_commit(folder: str) -> None:
    """Warn, once, where Spark has committed a wave on S3 by renaming: slow, and not safe if it is cut off.

    A wave of which that leaves too little is found out by `count_wave`; EMR's and Databricks' own committers
    do not say what they are.
    """
    if is_s3(folder) and not platform() and committer_of(read_text(f"{folder}/_SUCCESS") or "") is None:
        _warn_of_renames()


@cache
def _warn_of_renames() -> None:
    logger.warning(
        "Spark commits to S3 by copying every file (no spark-hadoop-cloud on the class path, or another "
        "committer was chosen): leave out --s3_jars none, or see conf/s3a.conf"
    )


def count_wave(folder: str, *, by_shard: bool = False) -> WaveData:
    """Count the rows of a wave by outcome, and by shard if told; add up what they cost. Reads no vector.

    Raises:
        StorageError: the wave cannot be read.
    """
    files = {file.path: file.n_bytes for file in list_files(folder, ".parquet")}
    try:
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            counts = list(pool.map(lambda name: _count_file(os.path.join(folder, name), by_shard), files))
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{folder}: the wave cannot be read: {exc}") from exc
    by_code, shards, totals, limits = Counter[str | None](), Counter[str](), Counter[str](), list[int]()
    for file_codes, file_shards, file_totals, file_limit in counts:
        by_code.update(file_codes)
        shards.update(file_shards)
        totals.update(file_totals)
        limits += file_limit
    counted = Counted(
        n_rows=by_code.total(),
        n_errors_by_code={code: by_code[code] for code in sorted(filter(None, by_code))},
        n_tasks=int(totals["n_tasks"]),
        n_model_loads=int(totals["n_model_loads"]),
        stage_s={name: round(totals[name], 3) for name in STAGE_SECONDS},
        batch_limit=min(limits, default=None),
        **{name: int(totals[name]) for name in TRAFFIC},
    )
    return WaveData(counted, files, shards)


def _count_file(
    path: str, by_shard: bool
) -> tuple[Counter[str | None], Counter[str], Counter[str], list[int]]:
    """Return a file's rows by code, by shard if told, its totals by name, and its smallest limit."""
    columns = [f"{RESULT}.{ERROR}", f"{RESULT}.{STATS}", *([SHARD] if by_shard else [])]
    by_code, shards, totals, limits = Counter[str | None](), Counter[str](), Counter[str](), list[int]()
    with pq.ParquetFile(parquet_input(path)) as file:
        for batch in file.iter_batches(1 << 16, columns=columns):
            result = batch.column(RESULT)
            by_code.update(_counts(result.field(ERROR)))
            if by_shard:
                shards.update(_counts(batch.column(SHARD)))
            stats = result.field(STATS).drop_null().flatten()
            by_name = dict(zip(STATS_TYPE.names, stats, strict=True))
            limits += by_name.pop(BATCH_LIMIT).drop_null().to_pylist()
            totals.update({name: pc.sum(column, min_count=0).as_py() for name, column in by_name.items()})
    return by_code, shards, totals, limits


def _counts(column: pa.Array) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in pc.value_counts(column).to_pylist()}
