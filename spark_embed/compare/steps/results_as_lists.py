"""One UDF takes the encoded bytes and gives vectors: lists of Python numbers, which pandas converts."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_embed.compare.work import VECTOR, Work


def embed(table: DataFrame, work: Work) -> DataFrame:
    """Return the images' vectors."""
    table.sparkSession.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "32")

    @F.pandas_udf(VECTOR)
    def predict(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        model = work.model()
        for images in batches:
            vectors = work.in_batches(model, [work.prepare(data) for data in images])
            yield pd.Series([vector.tolist() for vector in vectors])

    return table.withColumn("embedding", predict("jpg")).repartition(200)
