"""metadata.json: what a run did, on what, how it went, and what it cost."""

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import functions as F

from spark_embed.config import Config
from spark_embed.inference import task as where
from spark_embed.inference import udf
from spark_embed.inference.feed import FeedOptions
from spark_embed.models import Recipe
from spark_embed.output.executors import Executor
from spark_embed.run.report import add_up
from spark_embed.run.wave import _warn_of_device, check_devices, count_wave, embed_table, run_wave
from spark_embed.schema import RESULT, SHARD

from support.arrow_images import references
from support.sources import find_source, table_of
from support.task_context import Task

DEVICES = ("cuda:0", "cuda:1", "cpu")


def test_the_record_says_what_ran_on_what_and_how(embed, shards, tiny_clip):
    metadata, _, _ = embed(shards, dtype="float32")
    assert metadata["status"] == "complete"
    assert metadata["this_run"] == {
        "rows": 27,
        "embedded": 24,
        "errors": 3,
        "errors_by_code": {"null_bytes": 3},
        "n_waves": 1,
    }
    assert metadata["pending"] == {"n_bad_shards": 0, "bad_shards": {}, "n_gone_shards": 0, "n_rows_left": 0}
    model = metadata["model"]
    assert model["name"] == "tiny-clip"
    assert model["source"] == str(tiny_clip)
    assert (model["embedding_dim"], model["dtype"], model["normalized"]) == (24, "float32", True)
    assert len(model["weights_sha256"]) == 64
    assert model["preprocessing"]["resample"] == "bicubic"
    assert metadata["input"]["n_shards"] == 3
    assert metadata["input"]["n_rows"] == 27
    assert metadata["input"]["layout"] == "parquet"
    assert metadata["input"]["n_bytes"] == sum(path.stat().st_size for path in shards.iterdir())
    assert set(metadata["timings_s"]) == {"plan", "preflight", "embed", "publish", "total"}
    assert metadata["stage_s"]["predict_s"] > 0
    assert metadata["stage_s"]["decode_s"] > 0
    assert metadata["throughput"]["images_per_s"] > 0
    assert metadata["n_tasks"] >= 1
    assert metadata["verdict"]["text"].endswith(
        ("model", "(--num_workers)", "images", "files", "(--columns)")
    )
    assert metadata["config"]["dtype"] == "float32"
    assert {"torch", "transformers", "pyspark", "spark_embed"} <= set(metadata["versions"])
    assert metadata["started_at"] <= metadata["finished_at"]


def test_each_worker_loads_the_model_once(embed, shards):
    metadata, _, _ = embed(shards, normalize=False, batch_size=1)  # 27 batches
    assert metadata["n_model_loads"] <= 2
    (executor,) = metadata["executors"].values()  # in local mode there is one
    assert (executor["n_rows"], executor["n_tasks"]) == (27, metadata["n_tasks"])
    assert executor["n_model_loads"] == metadata["n_model_loads"]
    assert executor["devices"] == ["cpu"]
    assert executor["busy_s"] >= metadata["stage_s"]["predict_s"] > 0
    assert (metadata["n_executors"], metadata["n_rows_again"]) == (1, 0)


def test_what_each_executor_did_is_counted_from_the_rows(tiny_clip, photo_bytes, tmp_path, monkeypatch):
    """A file for each task, as Spark writes them."""
    tasks = [("a:1", 0, 5), ("b:1", 0, 3), ("a:1", 1, 2)]  # executor, attempt, rows
    recipe = Recipe(str(tiny_clip), dtype="float32")
    for number, (executor, attempt, n_rows) in enumerate(tasks):
        monkeypatch.setattr(udf, "executor_name", lambda executor=executor: executor)
        monkeypatch.setattr(where.TaskContext, "get", lambda attempt=attempt: Task(attempt=attempt))
        batches = iter([references([photo_bytes[0]] * n_rows)])
        results = pa.chunked_array(list(udf.embed_arrays(batches, recipe, FeedOptions())))
        table = pa.table({SHARD: ["0.parquet"] * n_rows, RESULT: results})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    counted = count_wave(str(tmp_path)).counted
    assert {name: (one.n_tasks, one.n_rows) for name, one in counted.executors.items()} == {
        "a:1": (2, 7),
        "b:1": (1, 3),
    }
    assert (counted.n_tasks, counted.n_rows, counted.n_rows_again) == (3, 10, 2)
    assert sum(one.busy_s for one in counted.executors.values()) >= counted.longest_task_s > 0
    assert counted.longest_task_s >= counted.median_task_s > 0
    assert {one.devices for one in counted.executors.values()} == {("cpu",)}
    again = counted.model_copy(update={"longest_task_s": 9.0})
    assert add_up([counted, again]).executors["b:1"].n_rows == 6
    assert add_up([counted, again]).n_rows_again == 4


def test_a_run_on_other_devices_than_preflights_is_told_once(log):
    executors = {
        f"{name}:1": Executor(1, 9, 1, (device,), 1.0) for name, device in zip("abc", DEVICES, strict=True)
    }
    counted = add_up([]).model_copy(update={"executors": executors})
    _warn_of_device.cache_clear()
    for _ in range(2):
        check_devices(counted, "cuda")
    assert log.text.count("some executors run the model on cpu, though preflight ran on cuda") == 1
    log.clear()
    check_devices(counted.model_copy(update={"executors": {"a:1": executors["a:1"]}}), "cuda")
    assert log.text == ""


def test_every_task_leaves_a_profile_if_asked(embed, shards, tmp_path):
    metadata, _, _ = embed(shards, profile_dir=str(tmp_path / "profiles"))
    profiles = list((tmp_path / "profiles").glob("stage-*-task-*.html"))
    assert len(profiles) == metadata["n_tasks"]
    assert "run_feed" in profiles[0].read_text()


def test_a_batch_that_did_not_fit_into_memory_is_in_the_record(embed, spark, shards, tiny_clip, tmp_path):
    """By way of the rows, as a worker would send it."""
    source = find_source(Config(input_dir=str(shards), output_dir="unused"))
    embedded = embed_table(table_of(spark, source), Recipe(str(tiny_clip), dtype="float32"), FeedOptions())
    run_wave(embedded, str(tmp_path / "whole"))
    stats = F.col("`__result__`.stats")
    limited = F.when(stats.isNotNull(), stats.withField("batch_limit", F.lit(5)))
    smaller = embedded.withColumn("__result__", F.col("__result__").withField("stats", limited))
    run_wave(smaller, str(tmp_path / "smaller"))
    assert count_wave(str(tmp_path / "smaller")).counted.batch_limit == 5
    assert count_wave(str(tmp_path / "whole")).counted.batch_limit is None
    metadata, _, _ = embed(shards, batch_size=7)
    assert metadata["batch_size"] == 7
