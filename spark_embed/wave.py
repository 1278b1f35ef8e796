"""One Spark job that embeds some rows into a folder of its own; no shuffle, one Python node."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from spark_embed.feed import FeedOptions
from spark_embed.models import Recipe
from spark_embed.schema import BATCH_LIMIT, EMBEDDING, ERROR, IMAGE, RESULT, STAGE_SECONDS, STATS_TYPE
from spark_embed.tables import write_parquet
from spark_embed.udf import make_embed_column


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
    table: DataFrame, recipe: Recipe, options: FeedOptions, profile_dir: str | None = None
) -> DataFrame:
    """Return `table` with the reference replaced by the result; nothing runs yet."""
    result = make_embed_column(recipe, options, profile_dir)(F.col(IMAGE))
    return table.withColumn(RESULT, result).drop(IMAGE)


def run_wave(embedded: DataFrame, folder: str) -> None:
    """Run the job: write `embedded` below `folder`, result struct and all."""
    write_parquet(embedded, folder, f"{RESULT}.{EMBEDDING}")


def read_wave(embedded: DataFrame, folder: str) -> DataFrame:
    """Return what `run_wave` wrote."""
    return embedded.sparkSession.read.schema(embedded.schema).parquet(folder)


def count_wave(wave: DataFrame) -> WaveCounts:
    """Count the rows of a wave by outcome and add up what they cost; reads no vector."""
    stats = F.col(RESULT)["stats"]
    names = [name for name in STATS_TYPE.names if name != BATCH_LIMIT]
    sums = [F.sum(stats[name].cast("double")).alias(name) for name in names]
    limit = F.min(stats[BATCH_LIMIT]).alias(BATCH_LIMIT)
    by_code = wave.groupBy(F.col(RESULT)[ERROR].alias(ERROR))
    rows = by_code.agg(F.count(F.lit(1)).alias("n"), limit, *sums).collect()
    totals = {name: sum(row[name] or 0.0 for row in rows) for name in names}
    return WaveCounts(
        n_rows=sum(row["n"] for row in rows),
        n_errors_by_code={row[ERROR]: row["n"] for row in sorted(rows, key=_code) if row[ERROR]},
        n_tasks=int(totals["n_tasks"]),
        n_model_loads=int(totals["n_model_loads"]),
        stage_s={name: round(totals[name], 3) for name in STAGE_SECONDS},
        batch_limit=min((row[BATCH_LIMIT] for row in rows if row[BATCH_LIMIT]), default=None),
    )


def _code(row: Row) -> str:
    return row[ERROR] or ""
