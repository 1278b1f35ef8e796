"""The one Python node of the plan, what it does in a worker, and a column for other people's DataFrames.

The functions that Spark pickles are thin closures over
importable ones, so that the model cache of spark_embed.models is the worker's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import pandas as pd
import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from spark_embed.config import ModelOptions
from spark_embed.errors import ConfigError, ModelError
from spark_embed.inference.arrow import (
    OWN_PREFIX,
    Stats,
    iterate_rows,
    join_outcomes,
    make_input_array,
    make_result_array,
    make_result_frame,
    unpack_results,
)
from spark_embed.inference.feed import FeedOptions, run_feed
from spark_embed.inference.profile import profiled
from spark_embed.inference.recipes import make_feed_options, make_recipe
from spark_embed.inference.tally import Tally, tallied
from spark_embed.inference.task import (
    begin_task,
    end_task,
    executor_name,
    has_failed_before,
    load_worker_model,
    placed,
    task_cpus,
)
from spark_embed.models import Model, Recipe
from spark_embed.schema import EMBEDDING, result_columns
from spark_embed.spark.context import use_own_python
from spark_embed.spark.types import IMAGE_TYPE, quoted, result_type
from spark_embed.spark.versions import find_arrow_udf
from spark_embed.storage import traffic


def make_embed_column(
    recipe: Recipe,
    options: FeedOptions,
    profile_dir: str | None = None,
    *,
    packed: bool = False,
    tally: Tally | None = None,
) -> Callable[[Column], Column]:
    """Return the UDF: a column of rows (`make_input_column`) -> a column of results.

    They are of `result_type(recipe.gives, packed=packed)`.

    Exactly one such column belongs in a plan. It is marked nondeterministic, or a filter on its
    result would make Spark plan it, and load the model, twice. With `profile_dir` every task leaves a
    profile of its thread there; with `tally` it reports its rows by outcome.
    """
    gives = recipe.gives
    type_ = result_type(gives, packed=packed)

    def embed(arrays: Iterator[pa.Array]) -> Iterator[pa.Array]:
        made = tallied(embed_arrays(arrays, recipe, options), gives, tally)
        return profiled(made if packed else (unpack_results(array, gives) for array in made), profile_dir)

    if arrow_udf := find_arrow_udf():
        return _as_column(arrow_udf(embed, type_))

    def embed_pandas(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        return map(make_result_frame, embed(map(make_input_array, frames)))

    # The stubs know no iterator of DataFrames.
    return _as_column(pandas_udf(embed_pandas, type_))  # type: ignore[call-overload]


def make_input_column(reference: Column, columns: Sequence[str] = ()) -> Column:
    """Return what the UDF takes: references (`IMAGE_TYPE`), and own columns of these names beside them."""
    if not columns:
        return reference
    fields = [reference[name].alias(name) for name in IMAGE_TYPE.names]
    return F.struct(*fields, *(F.col(quoted(name)).alias(OWN_PREFIX + name) for name in columns))


def image_embedding(image: str | Column, *, model: str | None = None, **options: object) -> Column:
    """Return the embedding of a binary column of encoded images, for a DataFrame of your own.

    `df.withColumn("embedding", image_embedding("jpg"))` adds array<float>, null where the image is
    null or unusable; `image_embedding_result` says why.

    Spark sends 10,000 rows to Python at once, which with images of 100 KB is a gigabyte: set
    `spark.sql.execution.arrow.maxRecordsPerBatch` to some 100.

    Args:
        image: binary column, or its name. A column of another type fails the job.
        model: folder in Hugging Face layout (local or s3://) or hub id; default: the embedded
            EfficientNet-Lite0.
        options: other fields of `spark_embed.config.ModelOptions`. `dtype` is float32 unless given:
            without a preflight, "auto" could differ between workers.

    Raises:
        pydantic.ValidationError: an option that is none of these, or a value that is not allowed.
        ConfigError: a URI in S3 that cannot be a folder's, or a task other than to embed.
    """
    return image_embedding_result(image, model=model, **options)[EMBEDDING]


def image_embedding_result(image: str | Column, *, model: str | None = None, **options: object) -> Column:
    """Return `struct<embedding: array<float>, error: string, error_detail: string, stats: ...>`.

    As `image_embedding`; `embedding` is null exactly when `error` is set.
    """
    use_own_python()
    checked = ModelOptions.model_validate({"dtype": "float32", **options, "model_directory": model})
    column = F.col(image) if isinstance(image, str) else image
    nowhere = (F.lit(None).cast(field.dataType).alias(field.name) for field in IMAGE_TYPE.fields[1:])
    reference = F.struct(column.alias("bytes"), *nowhere)
    recipe = make_recipe(checked)
    if checked.task != "embed":
        raise ConfigError(f"task {checked.task}: this column is an embedding; the command gives labels")
    return make_embed_column(recipe, make_feed_options(checked))(reference)


def embed_arrays(
    arrays: Iterator[pa.Array], recipe: Recipe, options: FeedOptions
) -> Iterator[pa.StructArray]:
    """Turn arrays of rows into arrays of packed results; runs on executors, once per task.

    The chunks that come out are some batches each, whatever the chunks that came in; the rows in all are
    as many and in the same order. The model is loaded at the first row, so an empty task loads none.
    """
    traffic.take()  # of the worker's task before
    rows = iterate_rows(arrays)
    first = next(rows, None)
    if first is None:
        return
    told = time.perf_counter()
    with placed(recipe) as recipe:
        model, loaded = load_worker_model(recipe)
        _check_is_as_planned(model, recipe)
        begin_task(model)
        load_s = time.perf_counter() - told if loaded else 0.0
        stats: Stats = {"n_tasks": 1, "n_model_loads": int(loaded), "load_s": load_s}
        where: Stats = {"executor": executor_name(), "device": model.recipe.device}
        n_threads, is_again = task_cpus() or options.n_threads, has_failed_before()
        options = replace(options, n_threads=n_threads, isolated=options.isolated or is_again)
        try:
            for outcomes in join_outcomes(run_feed(chain([first], rows), model, options)):
                started, n_rows = time.perf_counter(), outcomes.n_rows
                stats |= {
                    "n_rows": n_rows,
                    "n_rows_again": n_rows if is_again else 0,
                    "task_s": started - told,
                }
                told = started
                yield make_result_array(outcomes, model.gives, where | stats | traffic.take())
                # While this generator stood still, Spark wrote the array to the JVM: the next chunk carries
                # that.
                stats = {"encode_s": time.perf_counter() - started}
        finally:
            end_task(model)


def _check_is_as_planned(model: Model, recipe: Recipe) -> None:
    """Refuse a model that needs a preflight, where there was none (`image_embedding`).

    Raises:
        ModelError: it gives other columns than the plan has, or takes some that the plan does not.
    """
    if (model.gives, model.takes.columns) == (recipe.gives, recipe.takes.columns):
        return
    given, taken = ", ".join(result_columns(model.gives)), ", ".join(("an image", *model.takes.columns))
    raise ModelError(
        f"--model_directory {recipe.source}: makes {given} of {taken}, image_embedding an embedding of an "
        "image; this model is for a run of spark-embed"
    )


def _as_column(function) -> Callable[[Column], Column]:  # type: ignore[no-untyped-def]
    return function.asNondeterministic()  # type: ignore[no-any-return]
