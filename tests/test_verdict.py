"""Each bottleneck is named, by runs of the feed that really have it."""

import threading

import numpy as np
import pytest
from fakes import MeanColour

from spark_embed.feed import STAGES, FeedOptions, run_feed
from spark_embed.fetch import FetchPolicy, Reference
from spark_embed.verdict import Measured, judge


def spend(seconds: float) -> None:
    """Take time without taking the CPU, as a device or a disk does."""
    threading.Event().wait(seconds)


class Slow(MeanColour):
    """A model whose steps take a chosen time."""

    def __init__(self, prepare_s=0.0, predict_s=0.0):
        super().__init__()
        self.prepare_s, self.predict_s = prepare_s, predict_s

    def prepare(self, pixels):
        spend(self.prepare_s)
        return super().prepare(pixels)

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
    busy = sum(seconds.values()) - seconds["fetch_s"] - seconds["decode_s"]
    return Measured(seconds, **{"n_tasks": 1, "n_slots": 1, "embed_s": busy, "device": "cpu", **more})


@pytest.fixture
def references(photo_bytes):
    return [Reference(photo_bytes[row % 2]) for row in range(16)]


def test_a_slow_decode(references):
    verdict = judge(measure(references, Slow(prepare_s=0.02)))
    assert verdict.kind == "decode"
    assert "%" in verdict.text
    assert "spark.task.cpus" in verdict.text


@pytest.mark.parametrize(("device", "advice"), [("cpu", "a GPU"), ("cuda", "--batch_size")])
def test_a_slow_device(references, device, advice):
    verdict = judge(measure(references, Slow(predict_s=0.2), device=device))
    assert verdict.kind == "device"
    assert advice in verdict.text


def test_a_slow_fetch(tmp_path, photo_bytes, monkeypatch):
    from spark_embed import fetch

    (tmp_path / "a.jpg").write_bytes(photo_bytes[0])
    read = fetch._read_file
    monkeypatch.setattr(fetch, "_read_file", lambda *arguments: spend(0.03) or read(*arguments))
    references = [Reference(uri="a.jpg", base=str(tmp_path)) for _ in range(16)]
    verdict = judge(measure(references, MeanColour(), FetchPolicy(roots=(str(tmp_path),))))
    assert verdict.kind == "fetch"


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
