"""The vectors are one Arrow array. All columns come along: images go through the shuffle to the output."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.types import StructField, StructType

from spark_embed.compare.work import VECTOR, Work, as_lists


def embed(table: DataFrame, work: Work) -> DataFrame:
    """Return the images' vectors."""
    table.sparkSession.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "32")
    schema = StructType([*table.schema, StructField("embedding", VECTOR)])

    def predict(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        model = work.model()
        for batch in batches:
            vectors = work.in_batches(model, [work.prepare(data.as_py()) for data in batch["jpg"]])
            columns = [*batch.columns, as_lists(vectors)]
            yield pa.RecordBatch.from_arrays(columns, [*batch.schema.names, "embedding"])

    return table.mapInArrow(predict, schema).repartition(200)
