"""The model is timed with the batches it will get, and a good batch size is found."""

import numpy as np
import pytest

from spark_embed.inference.preflight import timing as pace
from spark_embed.inference.preflight.timing import Pace, estimate_pace, find_batch_size, measure_pace
from spark_embed.models import Prediction

from support.fakes import MeanColour

PREPARED = [np.zeros(3)]


class Timed(MeanColour):
    """A model whose forward pass takes `seconds(n)` of its own clock, and holds at most `room` images."""

    def __init__(self, monkeypatch, seconds, room=None):
        super().__init__()
        self.now, self.seconds, self.room = 0.0, seconds, room
        monkeypatch.setattr(pace.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(pace.time, "monotonic", lambda: self.now)

    def predict(self, batch):
        self.now += self.seconds(len(batch))
        prediction = super().predict(batch)
        fits = self.room is None or len(batch) <= self.room
        return Prediction(prediction.columns, batch_limit=None if fits else self.room)


def test_the_forward_pass_is_timed_with_a_full_batch(monkeypatch):
    model = Timed(monkeypatch, lambda n: 0.01 + 0.001 * n)
    assert measure_pace(model, PREPARED, 32).predict_s == pytest.approx(0.042 / 32)
    assert model.batch_sizes == [32, 32]  # twice, because it is short


def test_a_slow_network_is_timed_with_a_few_images(monkeypatch):
    model = Timed(monkeypatch, lambda n: 0.5 * n)
    assert estimate_pace(model, PREPARED, 32) == Pace(32, 0.5)
    assert model.batch_sizes == [4]


@pytest.mark.parametrize(
    ("seconds", "room", "found"),
    [
        (lambda n: 0.001 * n, None, 8),  # a CPU: no faster with more
        (lambda n: 0.010 + 0.0001 * n, None, 512),  # a GPU: each pass has its price
        (lambda n: max(0.032, 0.001 * n), None, 32),
        (lambda n: 0.010 + 0.0001 * n, 100, 64),  # and no more fit
        (lambda n: 0.25 * n, None, 8),  # too slow to try them all
    ],
    ids=["flat", "rising", "rising to 32", "out of memory", "slow"],
)
def test_the_smallest_batch_size_that_is_fast_is_found(monkeypatch, seconds, room, found):
    assert find_batch_size(Timed(monkeypatch, seconds, room), PREPARED).batch_size == found


def test_a_cpu_does_both_and_a_device_one_beside_the_other():
    a_pace = Pace(32, predict_s=0.010)
    assert a_pace.row_s(prepare_s=0.004, n_threads=2, device="cpu") == pytest.approx(0.012)
    assert a_pace.row_s(prepare_s=0.004, n_threads=2, device="cuda") == pytest.approx(0.010)
    assert a_pace.row_s(prepare_s=0.060, n_threads=2, device="cuda") == pytest.approx(0.030)
