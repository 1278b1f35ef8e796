"""What one row of results costs beyond its image: the Arrow result, its way to the JVM, Spark's bookkeeping.

One task at a time (local[1]) sends references through the job's own UDF to a noop sink. In the worker the
feed is replaced by one that answers every 32 references with vectors that exist already: nothing is
fetched, decoded or predicted.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from spark_embed.schema import EMBEDDING, EMBEDDING_RESULTS
from spark_embed.spark.types import IMAGE_TYPE, result_type

from benchmarks.measure import Line, Spread, environment
from benchmarks.report import describe_machine, markdown, warn_if_busy, write_result

DIM = 512
BATCH_SIZE = 32
SIZES = (50_000, 250_000)

WHOLE = "references, result array, transport"
RESULTS = "result array, transport"


def reference_column(row: Column) -> Column:
    """Return references to rows of a parquet file, as the job's table has them; the file is not read."""
    given = {"file": F.lit("file:/shards/00000.parquet"), "row": row, "version": F.lit("1-1")}
    return F.struct(
        *(
            given.get(field.name, F.lit(None)).cast(field.dataType).alias(field.name)
            for field in IMAGE_TYPE.fields
        )
    )


def result_column(what: str, references: Column) -> Column:
    """Return the job's results for a column of references, from a feed that costs nothing."""

    def embed(arrays: Iterator[pa.Array]) -> Iterator[pa.Array]:
        from benchmarks.noop import answer_references

        return answer_references(arrays, what)

    return F.arrow_udf(embed, result_type(EMBEDDING_RESULTS, packed=True)).asNondeterministic()(references)


def answer_references(arrays: Iterator[pa.Array], what: str) -> Iterator[pa.StructArray]:
    """Run the job's `embed_arrays` with a feed and a model that cost nothing; runs in the worker."""
    from spark_embed.inference import udf
    from spark_embed.inference.feed import FeedOptions
    from spark_embed.inference.fetch.references import Reference
    from spark_embed.models import Recipe

    nowhere = Reference(), None
    free = {
        "run_feed": free_feed,
        "load_worker_model": lambda recipe: (SimpleNamespace(gives=recipe.gives, recipe=recipe), False),
    }
    if what == RESULTS:
        free["iterate_rows"] = lambda arrays: (nowhere for array in arrays for _ in range(len(array)))
    with patch.multiple(udf, **free):
        yield from udf.embed_arrays(arrays, Recipe(), FeedOptions())


def free_feed(references: Iterable[object], *unused: object) -> Iterator[object]:
    """Answer references batch by batch with the same vectors; stands for the feed's `run_feed`."""
    from spark_embed.inference.feed import STAGES, Outcomes

    vectors = np.random.default_rng(0).random((BATCH_SIZE, DIM), dtype=np.float32)
    seconds = dict.fromkeys(STAGES, 0.1)
    rows = iter(references)
    while n_rows := sum(1 for _ in islice(rows, BATCH_SIZE)):
        yield Outcomes({EMBEDDING: vectors[:n_rows]}, {EMBEDDING: [None] * n_rows}, seconds)


def time_rows(spark: SparkSession, what: str, n_rows: int) -> float:
    """Return the seconds of one job over `n_rows` rows, in one task."""
    results = result_column(what, reference_column(F.col("id")))
    frame = spark.range(n_rows, numPartitions=1).select(results.alias("result"))
    started = time.perf_counter()
    frame.write.format("noop").mode("overwrite").save()
    return time.perf_counter() - started


def make_session() -> SparkSession:
    """Return a session with one slot and the job's settings."""
    from spark_embed.spark.session import local_properties

    os.environ.update(environment())
    builder = SparkSession.builder.master("local[1]").config("spark.log.level", "WARN")
    for name, value in local_properties().items():
        builder = builder.config(name, value)
    return builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", "256").getOrCreate()


def measure_noop(n_rounds: int, sizes: tuple[int, int] = SIZES) -> None:
    """Measure, print the table, write the JSON."""
    machine = describe_machine()
    warn_if_busy(machine)
    spark = make_session()
    lines: dict[str, list[Line]] = {WHOLE: [], RESULTS: []}
    for what in lines:  # the worker starts, the JVM compiles
        time_rows(spark, what, sizes[0])
    for _ in range(n_rounds):
        for what, rounds in lines.items():
            small, large = (time_rows(spark, what, n_rows) for n_rows in sizes)
            rounds.append(Line(sizes, (small, large)))
    spark.stop()
    rows = [
        {
            "name": what,
            "us_per_row": vars(Spread.of([1e6 / line.images_per_s for line in rounds])),
            "seconds": [line.seconds for line in rounds],
        }
        for what, rounds in lines.items()
    ]
    result = {"kind": "noop", "dim": DIM, "sizes": sizes, "n_rounds": n_rounds, "rows": rows}
    result["machine"] = machine
    print(f"{markdown(result)}\n")
    print(f"written to {write_result(result)}", file=sys.stderr)
