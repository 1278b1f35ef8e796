"""The model stays in the worker. After each task the garbage collector walks all that torch has imported."""

from __future__ import annotations

import gc
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
        import torch

        model = work.model(freeze=False)
        for images in arrays:
            yield pd.Series([work.predict(model, [work.from_floats(image)])[0].tolist() for image in images])
        gc.collect()
        torch.cuda.empty_cache()

    table = table.withColumn("pixels", decode("jpg")).withColumn("embedding", predict("pixels"))
    return table.drop("pixels").repartition(200)
