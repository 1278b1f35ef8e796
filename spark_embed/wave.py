"""One Spark job that embeds some rows into a folder of its own; no shuffle, one Python node."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_embed.feed import FeedOptions
from spark_embed.models import Recipe
from spark_embed.schema import EMBEDDING, ERROR, IMAGE, RESULT, STAGE_SECONDS
from spark_embed.tables import write_parquet
from spark_embed.udf import make_embed_column


@dataclass(frozen=True)
class WaveCounts:
    """What a committed wave holds; two of them add up.

    Attributes:
        n_errors_by_code: rows without a vector, by code.
        n_loads: how often a worker process had to load the model.
        stage_s: seconds by stage, summed over threads and tasks.
    """

    n_rows: int
    n_errors_by_code: dict[str, int]
    n_loads: int
    stage_s: dict[str, float]


def embed_table(table: DataFrame, recipe: Recipe, options: FeedOptions) -> DataFrame:
    """Return `table` with the reference replaced by the result; nothing runs yet."""
    result = make_embed_column(recipe, options)(F.col(IMAGE))
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
    sums = [F.sum(stats[name].cast("double")).alias(name) for name in ("n_loads", *STAGE_SECONDS)]
    rows = wave.groupBy(F.col(RESULT)[ERROR].alias(ERROR)).agg(F.count(F.lit(1)).alias("n"), *sums).collect()
    return WaveCounts(
        n_rows=sum(row["n"] for row in rows),
        n_errors_by_code={
            row[ERROR]: row["n"] for row in sorted(rows, key=lambda r: str(r[ERROR])) if row[ERROR]
        },
        n_loads=int(sum(row["n_loads"] or 0 for row in rows)),
        stage_s={name: round(sum(row[name] or 0.0 for row in rows), 3) for name in STAGE_SECONDS},
    )
