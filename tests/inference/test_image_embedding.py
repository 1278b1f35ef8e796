"""image_embedding: a column for other people's DataFrames, and a struct that says why one is null."""

import numpy as np
import pytest
from pydantic import ValidationError
from pyspark.sql import functions as F

from spark_embed import image_embedding, image_embedding_result
from spark_embed.errors import ConfigError
from spark_embed.inference.feed import FeedOptions
from spark_embed.models import Recipe

from support.arrow_images import embed_arrays, references
from support.vectors import cosines


@pytest.fixture
def recipe(tiny_clip) -> Recipe:
    return Recipe(str(tiny_clip), dtype="float32")


@pytest.fixture
def without_arrow_udf(monkeypatch):
    """Make Spark 4.1 take the way that Spark 3.5 and 4.0 take."""
    monkeypatch.delattr(F, "arrow_udf", raising=False)


@pytest.fixture
def frame(spark, shards):
    return spark.read.parquet(str(shards))


def test_image_embedding_is_a_column_for_any_dataframe(frame, tiny_clip, recipe):
    with_vectors = frame.withColumn("embedding", image_embedding("jpg", model=str(tiny_clip)))
    rows = with_vectors.collect()
    assert len(rows) == 27
    assert dict(with_vectors.dtypes)["embedding"] == "array<float>"
    assert all((row["embedding"] is None) == (row["jpg"] is None) for row in rows)

    good = [row for row in rows if row["jpg"] is not None]
    (expected,) = embed_arrays(iter([references([bytes(row["jpg"]) for row in good])]), recipe, FeedOptions())
    ours = np.array([row["embedding"] for row in good])
    assert cosines(ours, np.array(expected.field("embedding").to_pylist())).min() > 0.99999


def test_before_spark_4_1_the_column_gives_the_same(frame, tiny_clip, without_arrow_udf, photo_bytes, recipe):
    rows = frame.select("jpg", image_embedding_result("jpg", model=str(tiny_clip)).alias("r")).collect()
    assert [row.r.error for row in rows if row.jpg is None] == ["null_bytes"] * 3
    good = [row for row in rows if row.jpg is not None]
    (expected,) = embed_arrays(iter([references([bytes(row.jpg) for row in good])]), recipe, FeedOptions())
    ours = np.array([row.r.embedding for row in good])
    assert cosines(ours, np.array(expected.field("embedding").to_pylist())).min() > 0.99999
    assert sum(row.r.stats.n_tasks for row in rows if row.r.stats) >= 1


@pytest.mark.parametrize("arrow", [True, False])
def test_a_column_that_is_not_binary_fails_the_job(frame, tiny_clip, arrow, monkeypatch):
    if not arrow:
        monkeypatch.delattr(F, "arrow_udf", raising=False)
    nulls = [F.lit(None).cast("string")] if hasattr(F, "arrow_udf") else []  # pandas forgets their type
    for column in ("caption", F.col("width"), *nulls):
        with pytest.raises(Exception, match="it must be binary"):
            frame.select(image_embedding(column, model=str(tiny_clip))).collect()


def test_the_result_struct_says_why_a_row_has_no_vector(frame, tiny_clip):
    broken = frame.withColumn(
        "jpg", F.when(F.col("width") == 0, F.expr("substring(jpg, 1, 2000)")).otherwise(F.col("jpg"))
    )
    result = image_embedding_result("jpg", model=str(tiny_clip), normalize=False)
    counts = broken.select(result.alias("r")).groupBy("r.error").count().collect()
    assert {row["error"]: row["count"] for row in counts} == {None: 21, "null_bytes": 3, "corrupt": 3}


def test_the_udf_stands_once_in_the_plan_whatever_is_done_with_its_result(frame, tiny_clip):
    result = image_embedding_result("jpg", model=str(tiny_clip))
    used = (
        frame.withColumn("r", result).where("r.error is null").select("r.embedding", "r.error_detail", "key")
    )
    plan = used._jdf.queryExecution().executedPlan().toString()
    assert plan.count("EvalPython") == 1


def test_a_worker_process_loads_the_model_once_however_many_tasks_it_runs(frame, tiny_clip):
    result = image_embedding_result("jpg", model=str(tiny_clip), dtype="bfloat16")  # no other test has it
    many_tasks = frame.repartition(12).withColumn("r", result)
    stats = many_tasks.select("r.stats.*")
    n_tasks, n_loads, n_batches = stats.selectExpr(
        "sum(n_tasks)", "sum(n_model_loads)", "count(n_tasks)"
    ).collect()[0]
    assert n_tasks == n_batches == 12
    assert 1 <= n_loads <= 2  # two tasks at once: two workers


def test_a_model_that_cannot_be_used_fails_the_task_with_its_line(frame):
    with pytest.raises(Exception, match="there is no such folder"):
        frame.select(image_embedding("jpg", model="/no/such/model")).collect()


def test_an_option_that_does_not_exist_is_refused():
    with pytest.raises(ValidationError, match="batchsize"):
        image_embedding("jpg", batchsize=3)
    with pytest.raises(ConfigError, match="task classify: this column is an embedding"):
        image_embedding("jpg", task="classify")
    with pytest.raises(ValidationError, match="batch_size"):
        image_embedding("jpg", batch_size=0)
