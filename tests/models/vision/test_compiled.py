"""torch.compile: the same vectors from one compilation for all batch sizes, and an error that helps."""

import numpy as np
import pytest
import torch

from spark_embed.errors import ModelError
from spark_embed.models import Inputs, Recipe
from spark_embed.models.vision import network
from spark_embed.models.vision.image_embedder import ImageEmbedder

from support.small_models import save_model


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    save_model("clip", tmp_path)
    return Recipe(str(tmp_path), device="cpu", dtype="float32", compile_rows=4)


def without_compiler(monkeypatch) -> list[int]:
    """Let torch.compile leave functions as they are; returns the batch sizes that they then see."""
    sizes: list[int] = []

    def compile_nothing(function, **options):
        return lambda inputs: sizes.append(len(inputs["pixel_values"])) or function(inputs)

    monkeypatch.setattr(torch, "compile", compile_nothing)
    return sizes


@pytest.mark.slow
def test_compiled_vectors_are_those_of_the_network_as_it_is(recipe, photos):
    n_before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled = ImageEmbedder(recipe)
    plain = ImageEmbedder(Recipe(recipe.source, device="cpu", dtype="float32"))
    batch = [plain.prepare(Inputs(np.array(photo))) for photo in photos]
    for n_rows in (1, 4, 6):
        expected = plain.predict(batch[:n_rows]).columns["embedding"]
        np.testing.assert_allclose(compiled.predict(batch[:n_rows]).columns["embedding"], expected, atol=1e-5)
    counters = torch._dynamo.utils.counters["stats"]
    assert counters["unique_graphs"] == n_before + 1


def test_smaller_batches_are_filled_up_and_larger_ones_run_as_they_did(recipe, photos, monkeypatch):
    sizes = without_compiler(monkeypatch)
    model = ImageEmbedder(recipe)
    batch = [model.prepare(Inputs(np.array(photo))) for photo in photos]
    sizes.clear()
    assert [len(model.predict(batch[:n_rows]).columns["embedding"]) for n_rows in (1, 4, 6)] == [1, 4, 6]
    assert sizes == [4, 4]


def test_a_batch_that_did_not_fit_is_not_filled_up_again(recipe, photos, monkeypatch):
    sizes = without_compiler(monkeypatch)
    model = ImageEmbedder(recipe)
    batch = [model.prepare(Inputs(np.array(photo))) for photo in photos[:4]]
    model.network.backoff.limit = 2
    sizes.clear()
    assert len(model.predict(batch).columns["embedding"]) == 4
    assert sizes == []


def test_a_compiler_that_fails_is_named(recipe, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

    monkeypatch.setattr(network, "compile_forward", lambda forward, n_rows: fail)
    with pytest.raises(ModelError, match=r"--compile true: torch\.compile fails .*No working C\+\+ compiler"):
        ImageEmbedder(recipe)


def test_a_model_without_a_fast_path_is_not_compiled(tmp_path):
    save_model("siglip2-naflex", tmp_path)
    with pytest.raises(ModelError, match="not for a model whose images transformers prepares"):
        ImageEmbedder(Recipe(str(tmp_path), device="cpu", dtype="float32", compile_rows=4))
