"""The two shapes in which image embedding with Spark is usually published, on the same data and model.

Usage: python -m benchmarks.spark_shapes {two-udfs,predict-batch-udf} INPUT_DIR OUTPUT_DIR MODEL_DIRECTORY

two-udfs: one UDF decodes to array<float>, a second one predicts, so every image crosses as 150,528 floats.
predict-batch-udf: pyspark.ml's UDF takes the bytes; one thread decodes with Pillow, then predicts.
Both run in float32 as they are published, with the Spark settings of this project.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, FloatType

VECTOR = ArrayType(FloatType())

# With Spark's own 10,000 the decoded images of one Arrow batch would take 6 GB.
RECORDS_PER_ARROW_BATCH = 64


def two_udfs(jpg: Column, model_directory: str, batch_size: int) -> Column:
    """Return the vector's column: decode in one UDF, predict in the next."""

    @F.pandas_udf(VECTOR)
    def decode(images: pd.Series) -> pd.Series:
        prepare = load_prepare(model_directory)
        return images.map(lambda data: prepare(data).reshape(-1))

    @F.pandas_udf(VECTOR)
    def predict(arrays: Iterator[pd.Series]) -> Iterator[pd.Series]:
        forward = load_forward(model_directory)
        for series in arrays:
            parts = [
                forward(np.stack(series[start : start + batch_size].to_list()))
                for start in range(0, len(series), batch_size)
            ]
            yield pd.Series(list(np.concatenate(parts)))

    return predict(decode(jpg))


def predict_batch(jpg: Column, model_directory: str, batch_size: int) -> Column:
    """Return the vector's column: pyspark.ml's predict_batch_udf over the encoded images."""

    def make_predict() -> Callable[[np.ndarray], np.ndarray]:
        prepare, forward = load_prepare(model_directory), load_forward(model_directory)
        return lambda images: forward(np.stack([prepare(data) for data in images]))

    return predict_batch_udf(make_predict, return_type=VECTOR, batch_size=batch_size)(jpg)


SHAPES = {"two-udfs": two_udfs, "predict-batch-udf": predict_batch}


def load_prepare(model_directory: str) -> Callable[[bytes], np.ndarray]:
    """Return encoded image -> float32 (3, 224, 224), as the plain loop has it; runs in a worker."""
    from benchmarks.loops import make_prepare

    return make_prepare(Path(model_directory))


def load_forward(model_directory: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return model inputs -> vectors; runs in a worker, once per task."""
    import torch

    from benchmarks.loops import load_network, predict

    torch.set_num_threads(1)
    network = load_network(Path(model_directory), "float32")
    return lambda inputs: predict(network, torch.from_numpy(inputs.reshape(-1, 3, 224, 224)))


def main() -> None:
    from spark_embed.spark.session import local_properties

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    for name in ("input_dir", "output_dir", "model_directory"):
        parser.add_argument(name)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    builder = SparkSession.builder.master(f"local[{options.workers},4]").config("spark.log.level", "WARN")
    for name, value in local_properties().items():
        builder = builder.config(name, value)
    builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", str(RECORDS_PER_ARROW_BATCH))
    builder = builder.config("spark.sql.parquet.columnarReaderBatchSize", str(RECORDS_PER_ARROW_BATCH))
    spark = builder.getOrCreate()
    embed = SHAPES[options.shape](F.col("jpg"), options.model_directory, options.batch_size)
    table = spark.read.parquet(options.input_dir)
    table.select("key", embed.alias("embedding")).write.parquet(options.output_dir)
    spark.stop()


if __name__ == "__main__":
    main()
