"""Parity sees what differs from plain transformers, and skips what cannot be compared."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from spark_embed.inference.decode import MAX_PIXELS
from spark_embed.inference.preflight.parity import Parity, measure_parity, predict_references, prepare_sample
from spark_embed.models import Inputs, Recipe
from spark_embed.models.vision.image_embedder import ImageEmbedder
from spark_embed.models.vision.preprocess import Preprocessing

from support.image_files import encode
from support.small_models import save_model


def compare(model: ImageEmbedder, images, max_pixels: int = MAX_PIXELS) -> Parity:
    return measure_parity(model, list(prepare_sample(model, ((data, None) for data in images), max_pixels)))


@pytest.fixture
def clip(tmp_path) -> ImageEmbedder:
    save_model("clip", tmp_path)
    return ImageEmbedder(Recipe(str(tmp_path), device="cpu", dtype="float32"))


def test_an_unbroken_model_agrees_with_plain_transformers(clip, photo_bytes):
    parity = compare(clip, photo_bytes)
    assert parity.n_images == len(photo_bytes)
    assert parity.min_cosine >= 0.9999
    assert parity.max_pixel_difference < 2.01


def test_a_model_without_a_fast_path_has_no_pixels_that_could_differ(tmp_path, photo_bytes):
    save_model("siglip2-naflex", tmp_path)
    model = ImageEmbedder(Recipe(str(tmp_path), device="cpu", dtype="float32"))
    parity = compare(model, photo_bytes)
    assert parity.max_pixel_difference is None
    assert parity.min_cosine >= 0.9999


@pytest.mark.parametrize(
    "wrong",
    [{"resample": "bilinear"}, {"size": (225, 225)}, {"mean": (0.5, 0.5, 0.5)}, {"std": (0.3, 0.3, 0.3)}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_preprocessing_is_seen_in_the_pixels(clip, photo_bytes, wrong):
    clip.network.preprocessing = replace(clip.network.preprocessing, **wrong)
    assert compare(clip, photo_bytes).max_pixel_difference > 5


def test_swapped_channels_are_seen_in_the_pixels(clip, photo_bytes, monkeypatch):
    prepare = Preprocessing.prepare
    monkeypatch.setattr(Preprocessing, "prepare", lambda self, *given: prepare(self, *given).flip(0))
    assert compare(clip, photo_bytes).max_pixel_difference > 50


def test_a_lower_precision_is_compared_with_float32(clip, photo_bytes):
    model = ImageEmbedder(replace(clip.recipe, dtype="bfloat16"))
    assert 0.999 < compare(model, photo_bytes).min_cosine < 1


def test_images_that_cannot_be_compared_are_skipped(clip, photo_bytes):
    narrow = encode(Image.new("RGB", (2100, 100)))
    large = encode(Image.new("RGB", (2000, 1000)))
    skipped = [b"", b"no image", photo_bytes[0][:500], narrow, large]
    parity = compare(clip, [*photo_bytes[:2], *skipped], max_pixels=1_000_000)
    assert parity.n_images == 2
    assert parity.min_cosine >= 0.9999
    assert compare(clip, skipped, max_pixels=1_000_000) == Parity(0, None, None)


def test_a_precision_that_overflows_has_cosine_0(clip, photo_bytes):
    with torch.no_grad():  # beyond float16, 65,504, but not beyond float32
        clip.network._network.visual_projection.weight.mul_(1e6)
    state = clip.network._network.state_dict()
    half = ImageEmbedder(replace(clip.recipe, dtype="float16"))
    half.network._network.load_state_dict(state)
    assert len(half.predict([half.prepare(Inputs(np.zeros((9, 9, 3), np.uint8)))]).failures["embedding"]) == 1
    assert compare(half, photo_bytes).min_cosine == 0


def test_one_image_at_a_time_is_kept_in_memory(clip, photo_bytes, monkeypatch):
    pixels: list[weakref.ref] = []
    prepare = clip.prepare

    def watched(inputs):
        assert all(reference() is None for reference in pixels)
        pixels.append(weakref.ref(inputs.image))
        return prepare(inputs)

    monkeypatch.setattr(clip, "prepare", watched)
    taken = []
    sample = prepare_sample(clip, ((taken.append(data) or data, None) for data in photo_bytes), MAX_PIXELS)
    next(sample)
    assert len(taken) == 1
    assert len(list(sample)) == len(photo_bytes) - 1 == len(pixels) - 1
    assert pixels[-1]() is None


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "every", "n_images"), [("photos", 4, 100), ("hostile", 1, 500)])
def test_real_and_odd_files_give_the_vectors_of_plain_transformers(material, folder, every, n_images):
    """All photos in float32: test_layouts.py."""
    recipe = Recipe(str(material / "clip-tiny"), device="cpu", dtype="float32")
    model = ImageEmbedder(recipe)
    files = sorted(path for path in (material / folder).rglob("*") if path.is_file())[::every]
    images = ((path.read_bytes(), None) for path in files if path.suffix != ".csv")
    sample = list(prepare_sample(model, images, MAX_PIXELS))
    references = predict_references(model, sample)
    for dtype, min_cosine in (("float32", 0.9999), ("bfloat16", 0.999)):
        parity = measure_parity(ImageEmbedder(replace(recipe, dtype=dtype)), sample, references)
        assert parity.n_images >= n_images
        assert parity.min_cosine >= min_cosine
