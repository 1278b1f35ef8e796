"""What was loaded is frozen once (`gc.freeze`). Each image has a forward pass of its own."""

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
    def decode(images: pd.Series) -> pd.Series:
        return images.map(lambda data: work.prepare(data).ravel().astype("float32").tolist())

    @F.pandas_udf(VECTOR)
    def predict(arrays: Iterator[pd.Series]) -> Iterator[pd.Series]:
        model = work.model()
        for images in arrays:
            yield pd.Series([work.predict(model, [work.from_floats(image)])[0].tolist() for image in images])

    table = table.withColumn("pixels", decode("jpg")).withColumn("embedding", predict("pixels"))
    return table.drop("pixels").repartition(200)
