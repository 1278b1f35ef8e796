"""What a run is bound to: waves for the executors that will be there."""

from types import SimpleNamespace

import pytest

from spark_embed.config import Config
from spark_embed.inference.feed import FeedOptions
from spark_embed.models import Recipe
from spark_embed.run import binding

DYNAMIC = {
    "spark.dynamicAllocation.enabled": "true",
    "spark.dynamicAllocation.maxExecutors": "50",
    "spark.executor.cores": "4",
}


@pytest.mark.parametrize(("conf", "n_slots", "wave_slots"), [({}, 2, 2), (DYNAMIC, 200, 8)])
def test_executors_that_may_come_have_tasks_in_waves_that_do_not_wait_for_them(
    spark, monkeypatch, conf, n_slots, wave_slots
):
    monkeypatch.setattr(binding, "read_settings", lambda spark: conf)
    shards = SimpleNamespace(
        image_bytes=10**14, n_bytes=10**14, n_rows=10**9, shards=range(1000), has_urls=False,
        needs_plain_reader=False,
    )  # fmt: skip
    model = {"jpeg_scaling": None}
    preflight = SimpleNamespace(row_s=0.01, batch_size=8, model=model, recipe=Recipe())
    config = Config(input_dir="in", output_dir="out", wave_s=100)
    bound = binding._bind(spark, config, shards, preflight, FeedOptions(), 10**9)
    assert bound.wave_rows == wave_slots * 100 / 0.01
    assert bound.wave_rows / bound.task_size.n_rows >= n_slots
    assert bound.n_slots == 2  # that are there
