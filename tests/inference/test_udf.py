"""The one Python node: batches, order, and what a task finds where it runs."""

import os
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_type

from spark_embed import models
from spark_embed.config import Config, ModelOptions
from spark_embed.inference import arrow, udf
from spark_embed.inference import task as where
from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.fetch.references import FetchPolicy, Reference
from spark_embed.inference.recipes import make_recipe
from spark_embed.inference.udf import make_embed_column
from spark_embed.models import Recipe, load_model
from spark_embed.schema import EMBEDDING_RESULTS, IMAGE
from spark_embed.spark.types import IMAGE_TYPE, result_type

from support.arrow_images import embed_arrays, references
from support.sources import find_source, table_of
from support.task_context import Task


def embed_frames(frames, recipe, options):
    return map(arrow.make_result_frame, embed_arrays(map(arrow.make_input_array, frames), recipe, options))


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
    assert [len(chunk) for chunk in chunks] == [70]  # one trip to the JVM instead of three


def test_results_go_to_the_jvm_some_batches_at_a_time(recipe, photo_bytes, monkeypatch):
    monkeypatch.setattr(arrow, "_MIN_ROWS_PER_RESULT", 5)
    images = [photo_bytes[0], b"broken"] * 6
    chunks = list(embed_arrays(iter([references(images)]), recipe, FeedOptions(batch_size=2)))
    assert [len(chunk) for chunk in chunks] == [7, 5]
    stats = [chunk.field("stats").to_pylist() for chunk in chunks]
    assert [[row is not None for row in rows] for rows in stats] == [
        [True] + [False] * 6,
        [True] + [False] * 4,
    ]
    assert [rows[0]["n_tasks"] for rows in stats] == [1, 0]
    assert all(rows[0]["predict_s"] > 0 for rows in stats)
    errors = [code for chunk in chunks for code in chunk.field("error").to_pylist()]
    assert errors == [None, "not_an_image"] * 6


def test_vectors_and_errors_stay_in_the_order_of_the_rows(recipe, photo_bytes):
    images = [photo_bytes[0], None, b"broken", photo_bytes[1], photo_bytes[0]]
    (chunk,) = embed_arrays(iter([references(images)]), recipe, FeedOptions())
    rows = chunk.to_pylist()
    assert [row["error"] for row in rows] == [None, "null_bytes", "not_an_image", None, None]
    assert [row["embedding"] is None for row in rows] == [False, True, True, False, False]
    assert rows[0]["embedding"] == pytest.approx(rows[4]["embedding"], abs=1e-6)
    assert rows[0]["embedding"] != pytest.approx(rows[3]["embedding"], abs=1e-3)
    assert rows[0]["stats"]["n_model_loads"] in (0, 1)
    assert rows[0]["stats"]["n_tasks"] == 1
    assert rows[0]["stats"]["predict_s"] > 0
    assert [row["stats"] for row in rows[1:]] == [None] * 4  # a batch's cost is told once


def test_the_two_kinds_of_udf_give_the_same_rows(recipe, photo_bytes):
    """Spark before 4.1 has no arrow_udf and takes the one over pandas."""
    images = [photo_bytes[0], None, photo_bytes[1]]
    (arrow,) = embed_arrays(iter([references(images)]), recipe, FeedOptions())
    frame = pd.DataFrame(references(images).to_pylist(), columns=IMAGE_TYPE.names)
    (pandas,) = embed_frames(iter([frame]), recipe, FeedOptions())
    assert list(pandas.columns) == result_type(EMBEDDING_RESULTS).names
    assert pandas["error"].tolist() == arrow.field("error").to_pylist()
    expected = arrow.field("embedding").to_pylist()
    assert pandas["embedding"][1] is None
    assert pandas["embedding"][2] == pytest.approx(expected[2])


@pytest.fixture
def without_arrow_udf(monkeypatch):
    """Make Spark 4.1 take the way that Spark 3.5 and 4.0 take."""
    monkeypatch.delattr(F, "arrow_udf", raising=False)


def test_rows_and_uris_survive_pandas_beside_nulls(recipe, monkeypatch):
    """pandas turns an integer column with a null in it into floats with a NaN."""
    given = [
        {"bytes": None, "row": 2**40, "file": "f", "version": "1-2"},
        {"bytes": b"x", "row": None, "uri": b"\xff/\xc3\xa9.jpg"},
    ]
    array = pa.array(given, to_arrow_type(IMAGE_TYPE))
    frame = pd.DataFrame({name: array.field(name).to_pandas() for name in IMAGE_TYPE.names})
    assert frame["row"].dtype == float
    seen = []
    monkeypatch.setattr(udf, "run_feed", lambda rows, *_: seen.extend(row for row, _ in rows) or [])
    list(embed_frames(iter([frame, frame[:0]]), recipe, FeedOptions()))
    assert seen[0] == Reference(file="f", row=2**40, version="1-2")
    assert bytes(seen[1].inline) == b"x"
    assert seen[1][1:] == ("\udcff/é.jpg", *[None] * 7)


@pytest.mark.parametrize("transport", ["reference", "bytes"])
def test_before_spark_4_1_the_pipelines_references_work(spark, shards, recipe, without_arrow_udf, transport):
    source = replace(find_source(Config(input_dir=str(shards), output_dir="x")), transport=transport)
    column = make_embed_column(recipe, FeedOptions(fetch=FetchPolicy(column="jpg")))
    errors = table_of(spark, source).select(column(F.col(IMAGE))["error"].alias("e")).groupBy("e").count()
    assert dict(map(tuple, errors.collect())) == {None: 24, "null_bytes": 3}


@pytest.mark.parametrize("arrow", [True, False])
def test_a_uri_that_is_not_utf_8_is_a_path_like_any_other(
    spark, tmp_path, recipe, photo_bytes, arrow, monkeypatch
):
    if not arrow:
        monkeypatch.delattr(F, "arrow_udf", raising=False)
    (tmp_path / "é.jpg").write_bytes(photo_bytes[0])
    (tmp_path / os.fsdecode(b"\xfe.jpg")).write_bytes(photo_bytes[0])
    urls = pa.array([b"\xff.jpg", None, "é.jpg".encode(), b"\xfe.jpg"]).view(pa.string())
    pq.write_table(pa.table({"url": urls}), tmp_path / "a.parquet")
    source = find_source(Config(input_dir=str(tmp_path), output_dir="x"))
    column = make_embed_column(recipe, FeedOptions(fetch=FetchPolicy(roots=(str(tmp_path),))))
    results = table_of(spark, source).orderBy("shard_row").select(column(F.col(IMAGE)).alias("r")).collect()
    assert [row.r.error for row in results] == ["not_found", "null_bytes", None, None]
    assert results[0].r.error_detail == rf"{tmp_path}/\xff.jpg"


@pytest.mark.parametrize(("task", "n_threads"), [(Task(cpus=3), 3), (Task(cpus=0), 1), (None, None)])
def test_a_worker_takes_the_cores_of_its_task(task, n_threads, recipe, monkeypatch):
    monkeypatch.setattr(where.TaskContext, "get", lambda: task)
    given = []
    monkeypatch.setattr(torch, "set_num_threads", lambda n: given.append(n))
    monkeypatch.setattr(udf, "run_feed", lambda _, __, options: given.append(options.n_threads) or [])
    monkeypatch.setattr(models, "_loaded", {})
    for _ in range(2):  # the second task finds the model loaded
        list(embed_arrays(iter([references([b"1"])]), recipe, FeedOptions(n_threads=7)))
    assert given == ([n_threads] * 3 if task else [7, 7])


@pytest.mark.parametrize(("task", "isolated"), [(None, False), (Task(), False), (Task(attempt=1), True)])
def test_a_task_that_failed_before_decodes_in_child_processes(task, isolated, recipe, monkeypatch):
    monkeypatch.setattr(where.TaskContext, "get", lambda: task)
    given = []
    monkeypatch.setattr(udf, "run_feed", lambda _, __, options: given.append(options.isolated) or [])
    list(embed_arrays(iter([references([b"1"])]), recipe, FeedOptions()))
    assert given == [isolated]


def test_a_model_folder_that_is_here_is_named_by_its_absolute_path(tiny_clip, monkeypatch):
    monkeypatch.chdir(tiny_clip.parent)
    monkeypatch.setenv("HOME", str(tiny_clip.parent))
    for given in (tiny_clip.name, f"./{tiny_clip.name}", f"~/{tiny_clip.name}", str(tiny_clip)):
        assert make_recipe(ModelOptions(model_directory=given)).source == str(tiny_clip)
    assert make_recipe(ModelOptions(model_directory="openai/clip")).source == "openai/clip"
    (tiny_clip.parent / models.EMBEDDED_MODEL).mkdir()
    assert make_recipe(ModelOptions()).source == models.EMBEDDED_MODEL


def test_an_empty_task_loads_no_model():
    nowhere = Recipe("/no/such/model")
    assert list(embed_arrays(iter([]), nowhere, FeedOptions())) == []
    assert list(embed_arrays(iter([references([])]), nowhere, FeedOptions())) == []
