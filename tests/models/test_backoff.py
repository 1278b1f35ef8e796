"""What does not fit into the device's memory runs in smaller batches, and loses no row."""

import numpy as np
import pytest
import torch

from spark_embed.models import Inputs, Recipe
from spark_embed.models.vision.image_embedder import ImageEmbedder

from support.small_models import save_model

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
HOST = RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory")


class SmallDevice:
    """Lets a model's network run on at most `room` images, and notes how many each pass had."""

    def __init__(self, model: ImageEmbedder, room: int, error: Exception = CUDA) -> None:
        self.tried: list[int] = []
        self.room, self.error = room, error
        model.network._network.register_forward_pre_hook(self._check, with_kwargs=True)

    def _check(self, network, args, inputs) -> None:
        self.tried.append(len(inputs["pixel_values"]))
        if self.tried[-1] > self.room:
            raise self.error


@pytest.fixture
def clip(tmp_path) -> ImageEmbedder:
    save_model("clip", tmp_path)
    return ImageEmbedder(Recipe(str(tmp_path), device="cpu", dtype="float32"))


@pytest.fixture
def batch(clip, photos) -> list:
    return [clip.prepare(Inputs(np.array(photo))) for photo in (*photos, *photos)][:11]


@pytest.mark.parametrize("error", [CUDA, CUBLAS, HOST, MemoryError()], ids=repr)
def test_a_batch_that_does_not_fit_is_repeated_in_halves_that_stay(clip, batch, error):
    whole = clip.predict(batch)
    assert whole.batch_limit is None
    device = SmallDevice(clip, 3, error)
    pieces = clip.predict(batch)
    assert device.tried == [11, 5, 2, 2, 2, 2, 2, 1]
    assert pieces.batch_limit == 2
    assert pieces.failures == {"embedding": {}}
    np.testing.assert_allclose(pieces.columns["embedding"], whole.columns["embedding"], atol=1e-6)
    device.tried.clear()
    assert clip.predict(batch[:5]).batch_limit == 2
    assert device.tried == [2, 2, 1]  # what was too large is not tried again


def test_a_failure_keeps_its_row_when_the_batch_is_cut(clip, batch, monkeypatch):
    SmallDevice(clip, 4)
    forward = clip.network.forward

    def forward_with_nan(inputs):
        outputs = forward(inputs)
        outputs["embedding"][(inputs["pixel_values"] == black).flatten(1).all(1)] = torch.nan
        return outputs

    batch[7] = torch.zeros_like(batch[7])
    black = clip.network.preprocessing.normalize(batch[7][None])
    monkeypatch.setattr(clip.network, "forward", forward_with_nan)
    assert {row: error.code for row, error in clip.predict(batch).failures["embedding"].items()} == {
        7: "bad_vector"
    }


def test_an_image_that_does_not_fit_alone_is_its_own_failure(clip, batch):
    SmallDevice(clip, 0)
    prediction = clip.predict(batch[:3])
    assert [prediction.failures["embedding"][row].code for row in range(3)] == ["out_of_memory"] * 3
    assert prediction.columns["embedding"].shape == (3, 24)
    assert prediction.batch_limit == 1


def test_any_other_error_of_the_network_is_not_hidden(clip, batch):
    device = SmallDevice(clip, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        clip.predict(batch)
    assert device.tried == [11]
