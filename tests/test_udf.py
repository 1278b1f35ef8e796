"""The one Python node: batches, order, model loads, and the column for other people's DataFrames."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import cosines
from pydantic import ValidationError
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_type

from spark_embed import image_embedding, image_embedding_result
from spark_embed.feed import FeedOptions
from spark_embed.models import Recipe, load_model
from spark_embed.schema import IMAGE_TYPE, RESULT_TYPE
from spark_embed.udf import embed_arrays, embed_frames


def references(images):
    return pa.array([{"bytes": data} for data in images], to_arrow_type(IMAGE_TYPE))


@pytest.fixture
def recipe(tiny_clip) -> Recipe:
    return Recipe(str(tiny_clip), dtype="float32")


def test_a_batch_of_32_spans_arrow_batches_of_10(recipe, photo_bytes, monkeypatch):
    model, _ = load_model(recipe)
    sizes = []
    predict = model.predict
    monkeypatch.setattr(model, "predict", lambda batch: sizes.append(len(batch)) or predict(batch))
    arrow_batches = (references([photo_bytes[0]] * 10) for _ in range(7))

    chunks = list(embed_arrays(arrow_batches, recipe, FeedOptions(batch_size=32)))

    assert sizes == [32, 32, 6]
    assert [len(chunk) for chunk in chunks] == [32, 32, 6]


def test_vectors_and_errors_stay_in_the_order_of_the_rows(recipe, photo_bytes):
    images = [photo_bytes[0], None, b"broken", photo_bytes[1], photo_bytes[0]]
    (chunk,) = embed_arrays(iter([references(images)]), recipe, FeedOptions())
    rows = chunk.to_pylist()
    assert [row["error"] for row in rows] == [None, "null_bytes", "not_an_image", None, None]
    assert [row["embedding"] is None for row in rows] == [False, True, True, False, False]
    assert rows[0]["embedding"] == pytest.approx(rows[4]["embedding"], abs=1e-6)
    assert rows[0]["embedding"] != pytest.approx(rows[3]["embedding"], abs=1e-3)
    assert rows[0]["stats"]["n_loads"] in (0, 1)
    assert [row["stats"] for row in rows[1:]] == [None] * 4  # a batch's cost is told once


def test_the_two_kinds_of_udf_give_the_same_rows(recipe, photo_bytes):
    """Spark before 4.1 has no arrow_udf and takes the one over pandas."""
    images = [photo_bytes[0], None, photo_bytes[1]]
    (arrow,) = embed_arrays(iter([references(images)]), recipe, FeedOptions())
    frame = pd.DataFrame(references(images).to_pylist(), columns=IMAGE_TYPE.names)
    (pandas,) = embed_frames(iter([frame]), recipe, FeedOptions())
    assert list(pandas.columns) == RESULT_TYPE.names
    assert pandas["error"].tolist() == arrow.field("error").to_pylist()
    expected = arrow.field("embedding").to_pylist()
    assert pandas["embedding"][1] is None
    assert pandas["embedding"][2] == pytest.approx(expected[2])


def test_an_empty_task_loads_no_model():
    nowhere = Recipe("/no/such/model")
    assert list(embed_arrays(iter([]), nowhere, FeedOptions())) == []
    assert list(embed_arrays(iter([references([])]), nowhere, FeedOptions())) == []


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
    row = many_tasks.agg(F.sum("r.stats.n_loads"), F.count("r.stats.n_loads")).collect()[0]
    n_loads, n_batches = row[0], row[1]
    assert n_batches >= 12
    assert 1 <= n_loads <= 2  # two tasks at once: two workers


def test_a_model_that_cannot_be_used_fails_the_task_with_its_line(frame):
    with pytest.raises(Exception, match="there is no such folder"):
        frame.select(image_embedding("jpg", model="/no/such/model")).collect()


def test_an_option_that_does_not_exist_is_refused():
    with pytest.raises(ValidationError, match="batchsize"):
        image_embedding("jpg", batchsize=3)
    with pytest.raises(ValidationError, match="batch_size"):
        image_embedding("jpg", batch_size=0)
