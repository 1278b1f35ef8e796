"""metadata.json: what a run did, on what, how it went, and what it cost."""

from pyspark.sql import functions as F

from spark_embed.config import Config
from spark_embed.inference.feed import FeedOptions
from spark_embed.models import Recipe
from spark_embed.run.wave import count_wave, embed_table, run_wave

from support.sources import find_source, table_of


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
    assert metadata["pending"] == {"n_bad_shards": 0, "bad_shards": {}, "n_gone_shards": 0}
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
