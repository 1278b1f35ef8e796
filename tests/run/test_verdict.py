"""Each bottleneck is named, by runs that really have it: of the feed alone, and whole ones."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.config import Config
from spark_embed.inference.feed import STAGES, FeedOptions
from spark_embed.inference.fetch.references import DownloadPolicy, FetchPolicy, Reference
from spark_embed.pipeline import run
from spark_embed.run.verdict import Measured, judge
from spark_embed.spark.settings import settings

from support.bad_server import BadServer
from support.fakes import MeanColour
from support.feeds import run_feed
from support.image_files import encode


def spend(seconds: float) -> None:
    """Take time without taking the CPU, as a device or a disk does."""
    threading.Event().wait(seconds)


class Slow(MeanColour):
    """A model whose steps take a chosen time."""

    def __init__(self, prepare_s=0.0, predict_s=0.0):
        super().__init__()
        self.prepare_s, self.predict_s = prepare_s, predict_s

    def prepare(self, inputs):
        spend(self.prepare_s)
        return super().prepare(inputs)

    def predict(self, batch):
        spend(self.predict_s)
        return super().predict(batch)


def measure(references, model, policy=None, **more) -> Measured:
    """Run the feed as one task of one slot would."""
    options = FeedOptions(batch_size=4, fetch=policy or FetchPolicy())
    chunks = list(run_feed(references, model, options))
    stage_s = {name: sum(chunk.seconds[name] for chunk in chunks) for name in STAGES}
    given = {"load_s": 0.0, "encode_s": 0.0, **more.pop("stage_s", {})}
    seconds = {**stage_s, **given}
    made = Measured(seconds, **{"n_tasks": 1, "n_slots": 1, "embed_s": 0.0, "device": "cpu", **more})
    return made if made.embed_s else replace(made, embed_s=made.busy_s)


@pytest.fixture
def references(photo_bytes):
    return [Reference(photo_bytes[row % 2]) for row in range(16)]


@pytest.mark.parametrize(
    ("device", "advice"), [("cpu", "more cores"), ("cuda", "cores instead of 1 (spark.task.cpus)")]
)
def test_a_slow_decode(references, device, advice):
    verdict = judge(measure(references, Slow(prepare_s=0.02), device=device))
    assert verdict.kind == "decode"
    assert "%" in verdict.text
    assert advice in verdict.text


def test_a_device_that_waits_is_told_how_many_cores_would_feed_it():
    seconds = {**dict.fromkeys((*STAGES, "load_s", "encode_s"), 0.0), "decode_s": 140.0, "wait_s": 26.0}
    run_of_4_cores = Measured({**seconds, "predict_s": 10.0}, 1, 1, 40.0, "cuda", task_cpus=4)
    assert "72% of the time: give each task 14 cores instead of 4" in judge(run_of_4_cores).text


@pytest.mark.parametrize(("device", "advice"), [("cpu", "a GPU"), ("cuda", "--batch_size")])
def test_a_slow_device(references, device, advice):
    verdict = judge(measure(references, Slow(predict_s=0.2), device=device))
    assert verdict.kind == "device"
    assert advice in verdict.text


def test_a_slow_fetch(tmp_path, photo_bytes, monkeypatch):
    from spark_embed.inference.fetch import references as fetch

    (tmp_path / "a.jpg").write_bytes(photo_bytes[0])
    read = fetch._read_file
    monkeypatch.setattr(fetch, "_read_file", lambda *arguments: spend(0.03) or read(*arguments))
    references = [Reference(uri="a.jpg", base=str(tmp_path)) for _ in range(16)]
    verdict = judge(measure(references, MeanColour(), FetchPolicy(roots=(str(tmp_path),))))
    assert verdict.kind == "fetch"


def test_a_slow_network(photo_bytes):
    """Its downloads overlap: their own seconds are many times those of the run."""
    policy = FetchPolicy(download=DownloadPolicy(concurrency=2, allow_private_addresses=True))
    with BadServer() as server:
        references = [Reference(uri=server.url(f"late/{n}?s=0.1")) for n in range(24)]
        for device in ("cpu", "cuda"):
            run = measure(references, MeanColour(), policy, device=device)
            verdict = judge(run)
            assert verdict.kind == "fetch"
            assert "--fetch_concurrency" in verdict.text
            assert ", 2 at once" in verdict.text


def test_answers_of_a_provider():
    """Whether `prepare` or `predict` waits for them says nothing."""
    seconds = {
        **dict.fromkeys(("load_s", "encode_s", *STAGES), 0.0),
        "wait_s": 8.0,
        "decode_s": 8.0,
        "read_s": 3.0,
    }
    verdict = judge(Measured({**seconds, "predict_s": 1.0}, 1, 1, 12.0, "remote"))
    assert verdict.kind == "device"
    assert "waited for answers 75%" in verdict.text
    assert "requests_per_s" in verdict.text


@pytest.mark.parametrize(
    ("slow", "kind"),
    [({"predict_s": 0.1}, "device"), ({"prepare_s": 0.03}, "decode")],
    ids=["model", "decode"],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_downloads_that_nothing_waits_for_are_not_blamed(slow, kind, device):
    """All together they take longer than the run, and yet nothing waits for them."""
    policy = FetchPolicy(download=DownloadPolicy(allow_private_addresses=True))
    with BadServer() as server:
        references = [Reference(uri=server.url(f"late/{n}?s=0.15")) for n in range(60)]
        run = measure(references, Slow(**slow), policy, device=device)
    assert run.stage_s["download_s"] > run.busy_s
    assert judge(run).kind == kind


def test_slow_rows(references):
    def slowly():
        for reference in references:
            spend(0.02)
            yield reference

    assert judge(measure(slowly(), MeanColour())).kind == "read"


def test_a_model_that_takes_longer_to_load_than_to_use(references):
    verdict = judge(measure(references, MeanColour(), stage_s={"load_s": 60.0}))
    assert verdict.kind == "start-up"
    assert "--num_workers" in verdict.text


def test_many_small_tasks(references):
    run = measure(references, MeanColour())
    verdict = judge(measure(references, MeanColour(), n_tasks=500, n_slots=2, embed_s=20 * run.busy_s))
    assert verdict.kind == "small tasks"
    assert "500" in verdict.text


def test_a_run_without_one_image_has_a_verdict_too():
    nothing = dict.fromkeys((*STAGES, "load_s", "encode_s"), 0.0)
    assert judge(Measured(nothing, 0, 2, 0.0, "cpu")).text
    assert np.isfinite(Measured(nothing, 0, 2, 0.0, "cpu").share("wait_s"))


@pytest.fixture
def judged(spark, tmp_path, tiny_clip):
    """Run a folder as a whole, with a model that no worker has loaded yet; returns the verdict."""

    def run_and_judge(input_dir, model=tiny_clip, **options):
        """Give both to run()."""
        shutil.copytree(model, tmp_path / "model")
        given = {"model_directory": str(tmp_path / "model"), "output_dir": str(tmp_path / "out"), **options}
        summary = run(spark, Config(input_dir=str(input_dir), dtype="float32", **given))
        return summary.verdict

    return run_and_judge


def write_shards(folder, columns, n_shards=2):
    """Write the same rows into some shards; returns their folder."""
    folder.mkdir()
    for shard in range(n_shards):
        pq.write_table(pa.table(columns), folder / f"{shard:05d}.parquet")
    return folder


def test_a_run_of_large_photos_is_held_back_by_decoding(judged, tmp_path, photos):
    large = encode(photos[0].resize((2400, 1800)), quality=92)
    verdict = judged(
        write_shards(tmp_path / "in", {"jpg": [large] * 30}), parity_samples=1, jpeg_scaling="off"
    )
    assert verdict.kind == "decode", verdict
    assert "Decoding and resizing took" in verdict.text


@pytest.fixture(scope="module")
def deep_clip(tmp_path_factory):
    """A CLIP that takes some 20 ms an image on one core."""
    import torch
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "deep-clip"
    config = CLIPVisionConfig(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4, projection_dim=8
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return folder


def test_a_run_of_small_photos_is_held_back_by_the_model(judged, tmp_path, photos, deep_clip):
    small = encode(photos[0].resize((64, 64)))
    verdict = judged(write_shards(tmp_path / "in", {"jpg": [small] * 100}), model=deep_clip, parity_samples=1)
    assert verdict.kind == "device", verdict
    assert "The model computed" in verdict.text


def test_a_run_over_slow_files_is_held_back_by_fetching(judged, tmp_path, photos):
    tiny_image_in_a_large_file = encode(photos[0].resize((16, 16))) + bytes(48 << 20)
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a.jpg").write_bytes(tiny_image_in_a_large_file)
    urls = {"url": [str(tmp_path / "files/a.jpg")] * 60}
    shards = write_shards(tmp_path / "in", urls)
    verdict = judged(shards, allowed_roots=(str(tmp_path / "files"),), parity_samples=1)
    assert verdict.kind == "fetch", verdict


def test_a_run_of_a_few_images_is_held_back_by_its_start(judged, tmp_path, photo_bytes, deep_clip):
    verdict = judged(write_shards(tmp_path / "in", {"jpg": photo_bytes[:1]}), model=deep_clip)
    assert verdict.kind == "start-up", verdict


def test_a_run_of_many_small_tasks_is_held_back_by_their_number(judged, tmp_path, spark, photo_bytes):
    shards = write_shards(tmp_path / "in", {"jpg": photo_bytes[:1]}, n_shards=40)
    n_bytes = str(10 << 20)  # opening one file counts as much as a task may hold
    one_shard_a_task = {
        "spark.sql.files.maxPartitionBytes": n_bytes,
        "spark.sql.files.openCostInBytes": n_bytes,
    }
    with settings(spark, one_shard_a_task):
        verdict = judged(shards)
    assert verdict.kind == "small tasks", verdict
    assert "40 of them" in verdict.text
