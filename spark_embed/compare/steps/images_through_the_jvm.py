"""Threads decode the next batch while one predicts. Spark still reads the images and sends them to Python."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pyarrow as pa
from pyspark.sql import DataFrame

from spark_embed.compare.work import Work, as_lists


def embed(table: DataFrame, work: Work) -> DataFrame:
    """Return the images' vectors."""
    table.sparkSession.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "32")

    def predict(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        model = work.model(fast=True)
        with ThreadPoolExecutor(2) as threads:
            waiting = None
            for batch in chain(batches, [None]):
                following = batch and (batch, threads.map(work.prepare, batch["jpg"].to_pylist()))
                if waiting:
                    keys, images = waiting[0]["key"], list(waiting[1])
                    vectors = work.in_batches(model, images)
                    yield pa.RecordBatch.from_arrays([keys, as_lists(vectors)], ["key", "embedding"])
                waiting = following

    return table.select("key", "jpg").mapInArrow(predict, "key string, embedding array<float>")
