"""Arrow columns <-> feed: the one Python node of the plan, and a column for other people's DataFrames.

The only file that knows both Spark and images. The functions that Spark pickles are thin closures over
importable ones, so that the model cache of spark_embed.models is the worker's own.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.pandas.types import to_arrow_type

from spark_embed.config import ModelOptions
from spark_embed.feed import FeedOptions, Outcomes, run_feed
from spark_embed.fetch import FetchPolicy, Reference
from spark_embed.models import EMBEDDED_MODEL, Model, Recipe, load_model
from spark_embed.schema import EMBEDDING, IMAGE_TYPE, RESULT_TYPE, STAGE_SECONDS, STATS_TYPE

_STATS_ARROW = to_arrow_type(STATS_TYPE)


def make_embed_column(recipe: Recipe, options: FeedOptions) -> Callable[[Column], Column]:
    """Return the UDF: a column of references (`IMAGE_TYPE`) -> a column of results (`RESULT_TYPE`).

    Exactly one such column belongs in a plan. It is marked nondeterministic, or a filter on its
    result would make Spark plan it, and load the model, twice.
    """
    if hasattr(F, "arrow_udf"):  # from Spark 4.1

        def embed(arrays: Iterator[pa.Array]) -> Iterator[pa.Array]:
            return embed_arrays(arrays, recipe, options)

        return _as_column(F.arrow_udf(embed, RESULT_TYPE))

    def embed_pandas(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        return embed_frames(frames, recipe, options)

    # The stubs know no iterator of DataFrames.
    return _as_column(pandas_udf(embed_pandas, RESULT_TYPE))  # type: ignore[call-overload]


def image_embedding(image: str | Column, *, model: str | None = None, **options: object) -> Column:
    """Return the embedding of a binary column of encoded images, for a DataFrame of your own.

    `df.withColumn("embedding", image_embedding("jpg"))` adds array<float>, null where the image is
    null or unusable; `image_embedding_result` says why.

    Args:
        image: binary column, or its name.
        model: folder in Hugging Face layout or hub id; default: the embedded EfficientNet-Lite0.
        options: other fields of `spark_embed.config.ModelOptions`. `dtype` is float32 unless given:
            without a preflight, "auto" could differ between workers.

    Raises:
        pydantic.ValidationError: an option that is none of these, or a value that is not allowed.
    """
    return image_embedding_result(image, model=model, **options)[EMBEDDING]


def image_embedding_result(image: str | Column, *, model: str | None = None, **options: object) -> Column:
    """Return `struct<embedding: array<float>, error: string, error_detail: string, stats: ...>`.

    As `image_embedding`; `embedding` is null exactly when `error` is set.
    """
    checked = ModelOptions.model_validate({"dtype": "float32", **options, "model_directory": model})
    column = F.col(image) if isinstance(image, str) else image
    nowhere = (F.lit(None).cast(field.dataType).alias(field.name) for field in IMAGE_TYPE.fields[1:])
    reference = F.struct(column.alias("bytes"), *nowhere)
    return make_embed_column(make_recipe(checked), make_feed_options(checked))(reference)


def make_recipe(options: ModelOptions) -> Recipe:
    """Return the recipe of the model that the options name, nothing resolved yet."""
    return Recipe(
        source=options.model_directory or EMBEDDED_MODEL,
        revision=options.revision,
        dtype=options.dtype,
        normalize=options.normalize,
        allow_pickle_weights=options.allow_pickle_weights,
        trust_remote_code=options.trust_remote_code,
    )


def make_feed_options(options: ModelOptions, fetch: FetchPolicy | None = None) -> FeedOptions:
    """Return how a task is fed."""
    return FeedOptions(
        batch_size=options.batch_size,
        max_pixels=options.max_pixels,
        decode_timeout_s=options.decode_timeout_s,
        fetch=fetch or FetchPolicy(),
    )


def embed_arrays(
    arrays: Iterator[pa.Array], recipe: Recipe, options: FeedOptions
) -> Iterator[pa.StructArray]:
    """Turn arrays of references into arrays of results; runs on executors, once per task.

    The chunks that come out follow the batches, not the chunks that came in; the rows in all are as
    many and in the same order. The model is loaded at the first row, so an empty task loads none.
    """
    references = iterate_references(arrays)
    first = next(references, None)
    if first is None:
        return
    started = time.perf_counter()
    model, loaded = load_worker_model(recipe)
    load_s = time.perf_counter() - started if loaded else 0.0
    encode_s = 0.0
    for outcomes in run_feed(chain([first], references), model, options):
        started = time.perf_counter()
        seconds = {**outcomes.seconds, "load_s": load_s, "encode_s": encode_s}
        yield _result_array(outcomes, n_loads=int(loaded), seconds=seconds)
        # While this generator stood still, Spark wrote the array to the JVM: the next chunk carries that.
        encode_s = time.perf_counter() - started
        loaded, load_s = False, 0.0


def task_device(recipe: Recipe) -> str:
    """Return the device of this task: with GPU addresses from Spark, the first of them; else the recipe's.

    Spark hands out addresses without hiding the other GPUs (it does not set CUDA_VISIBLE_DEVICES).
    """
    context = TaskContext.get()
    resources = context.resources() if context else {}
    if recipe.device == "cuda" and "gpu" in resources and not os.environ.get("CUDA_VISIBLE_DEVICES"):
        return f"cuda:{resources['gpu'].addresses[0]}"
    return recipe.device


def load_worker_model(recipe: Recipe) -> tuple[Model, bool]:
    """Return this worker's model on this task's device, and whether this call loaded it."""
    model, loaded = load_model(replace(recipe, device=task_device(recipe)))
    if loaded:
        # The PySpark daemon collects garbage after every task: with torch and transformers imported
        # that was a quarter of the worker's time. Frozen objects are not walked again.
        gc.collect()
        gc.freeze()
    return model, loaded


def iterate_references(arrays: Iterator[pa.Array]) -> Iterator[Reference]:
    """Take the rows of `IMAGE_TYPE` arrays apart; inline bytes stay views into the Arrow buffers."""
    for array in arrays:
        inline = array.field("bytes")
        others = [array.field(name).to_pylist() for name in IMAGE_TYPE.names[1:]]
        for scalar, *place in zip(inline, *others, strict=True):
            yield Reference(memoryview(scalar.as_buffer()).cast("B") if scalar.is_valid else None, *place)


def _result_array(outcomes: Outcomes, *, n_loads: int, seconds: dict[str, float]) -> pa.StructArray:
    """Build a `RESULT_TYPE` array: one vector per good row, without a copy of the vectors."""
    errors = outcomes.errors
    n_rows, dim = len(errors), outcomes.embedding.shape[1]
    is_error = np.fromiter((error is not None for error in errors), dtype=bool, count=n_rows)
    offsets = np.concatenate([[0], np.cumsum(np.where(is_error, 0, dim))]).astype(np.int32)
    embedding = pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.array(outcomes.embedding.reshape(-1)),
        type=pa.list_(pa.field("element", pa.float32(), nullable=False)),
        mask=pa.array(is_error),
    )
    stats = [n_loads, *(seconds.get(name, 0.0) for name in STAGE_SECONDS)]
    first_row_only = [dict(zip(STATS_TYPE.names, stats, strict=True)), *[None] * (n_rows - 1)]
    return pa.StructArray.from_arrays(
        [
            embedding,
            pa.array([error.code if error else None for error in errors], pa.string()),
            pa.array([error.detail if error else None for error in errors], pa.string()),
            pa.array(first_row_only, _STATS_ARROW),
        ],
        names=RESULT_TYPE.names,
    )


def embed_frames(
    frames: Iterator[pd.DataFrame], recipe: Recipe, options: FeedOptions
) -> Iterator[pd.DataFrame]:
    """Do the same through pandas, for Spark before 4.1 (about 30 microseconds a row slower)."""
    reference_type = to_arrow_type(IMAGE_TYPE)
    arrays = (pa.array(frame.to_dict("records"), type=reference_type) for frame in frames)
    for result in embed_arrays(arrays, recipe, options):
        columns = {name: result.field(name).to_pandas() for name in RESULT_TYPE.names}
        yield pd.DataFrame(columns)


def _as_column(function) -> Callable[[Column], Column]:  # type: ignore[no-untyped-def]
    return function.asNondeterministic()  # type: ignore[no-any-return]
