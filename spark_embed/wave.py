"""One Spark job that embeds some rows into a folder of its own; no shuffle, one Python node."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_embed.budget import Tally
from spark_embed.errors import StorageError
from spark_embed.feed import FeedOptions
from spark_embed.models import Recipe
from spark_embed.schema import BATCH_LIMIT, EMBEDDING, ERROR, IMAGE, RESULT, STAGE_SECONDS, STATS, STATS_TYPE
from spark_embed.storage import list_files
from spark_embed.tables import write_parquet
from spark_embed.udf import make_embed_column

_READ_THREADS = 16


@dataclass(frozen=True)
class WaveCounts:
    """What a committed wave holds.

    Attributes:
        n_errors_by_code: rows without a vector, by code.
        n_tasks: tasks that had at least one row.
        n_model_loads: how often a worker process had to load the model.
        stage_s: seconds by stage, summed over threads and tasks.
        batch_limit: images that fitted into the memory of the smallest device at once; None: all of a batch.
    """

    n_rows: int
    n_errors_by_code: dict[str, int]
    n_tasks: int
    n_model_loads: int
    stage_s: dict[str, float]
    batch_limit: int | None


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


def count_wave(folder: str) -> WaveCounts:
    """Count the rows of a wave by outcome and add up what they cost; reads no vector.

    Raises:
        StorageError: the wave cannot be read.
    """
    paths = [os.path.join(folder, file.path) for file in list_files(folder, ".parquet")]
    try:
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            counted = list(pool.map(_count_file, paths))
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{folder}: the wave cannot be read: {exc}") from exc
    by_code, totals, limits = Counter[str | None](), Counter[str](), list[int]()
    for file_codes, file_totals, file_limit in counted:
        by_code.update(file_codes)
        totals.update(file_totals)
        limits += file_limit
    return WaveCounts(
        n_rows=by_code.total(),
        n_errors_by_code={code: by_code[code] for code in sorted(filter(None, by_code))},
        n_tasks=int(totals["n_tasks"]),
        n_model_loads=int(totals["n_model_loads"]),
        stage_s={name: round(totals[name], 3) for name in STAGE_SECONDS},
        batch_limit=min(limits, default=None),
    )


def _count_file(path: str) -> tuple[Counter[str | None], Counter[str], list[int]]:
    """Return a file's rows by code, its totals by name, and its smallest limit, if any."""
    columns = [f"{RESULT}.{ERROR}", f"{RESULT}.{STATS}"]
    by_code, totals, limits = Counter[str | None](), Counter[str](), list[int]()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1 << 16, columns=columns):
            result = batch.column(RESULT)
            by_code.update(
                {row["values"]: row["counts"] for row in pc.value_counts(result.field(ERROR)).to_pylist()}
            )
            stats = result.field(STATS).drop_null().flatten()
            by_name = dict(zip(STATS_TYPE.names, stats, strict=True))
            limits += by_name.pop(BATCH_LIMIT).drop_null().to_pylist()
            totals.update({name: pc.sum(column, min_count=0).as_py() for name, column in by_name.items()})
    return by_code, totals, limits
