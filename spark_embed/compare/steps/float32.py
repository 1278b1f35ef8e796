"""As many files as tasks. The model computes in float32, where half as many bits give the same neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import DataFrame

from spark_embed.compare.work import Work, as_lists


def embed(table: DataFrame, work: Work) -> DataFrame:
    """Return the images' vectors."""
    table.sparkSession.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "32")

    def predict(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        model = work.model()
        for batch in batches:
            vectors = work.in_batches(model, [work.prepare(data.as_py()) for data in batch["jpg"]])
            yield pa.RecordBatch.from_arrays([batch["key"], as_lists(vectors)], ["key", "embedding"])

    return table.select("key", "jpg").mapInArrow(predict, "key string, embedding array<float>")
