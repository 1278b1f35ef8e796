"""The model seam against plain transformers, and what it refuses."""

import json
import re
import shutil
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import TimmWrapperConfig

from spark_embed.errors import ImageError, ModelError
from spark_embed.models import Inputs
from spark_embed.models.vision.image_embedder import ImageEmbedder

from support.small_models import (
    BICUBIC,
    NAMES,
    TIMM_ARGUMENTS,
    Reference,
    change_weights,
    prepare_all,
    recipe,
    save_model,
    steps,
)
from support.vectors import cosines

SIZES = [
    (225, 224), (224, 224), (333, 257), (257, 500), (500, 259), (640, 427), (400, 600), (901, 1200),  # photos
    (40, 31), (17, 90), (2, 2), (1, 1), (3, 50), (50, 3), (1, 7),  # enlarged
    (900, 20), (20, 900), (3000, 200), (301, 4000),  # so long that only a window of them is resized
]  # fmt: skip
"""Widths and heights; odd ones, so that half pixels must be split as the reference does."""


@pytest.fixture(scope="module")
def images(photos) -> list[Image.Image]:
    return [*photos, *(photos[i % len(photos)].resize(size) for i, size in enumerate(SIZES))]


# What comes out


@dataclass(frozen=True)
class Case:
    """A model, what it prepares of the images, and what plain transformers does, by its own processor."""

    name: str
    model: ImageEmbedder
    prepared: list
    reference: Reference
    inputs: list[dict[str, torch.Tensor]]


@pytest.fixture(scope="module", params=NAMES)
def case(request, images, tmp_path_factory) -> Case:
    if request.param in TIMM_ARGUMENTS and not hasattr(TimmWrapperConfig(), "model_args"):
        pytest.skip("this transformers builds no timm network from arguments: such a checkpoint is refused")
    folder = tmp_path_factory.mktemp(request.param)
    reference = save_model(request.param, folder)
    inputs = [reference.process(image) for image in images]
    model = ImageEmbedder(recipe(folder))
    return Case(request.param, model, prepare_all(model, images), reference, inputs)


def test_prepared_pixels_are_those_of_the_models_own_processor(case, images):
    preprocessing = case.model.network.preprocessing
    assert (preprocessing is None) == (case.name == "siglip2-naflex")  # all others take the fast path
    for image, expected, prepared in zip(images, case.inputs, case.prepared, strict=True):
        if preprocessing is None:
            assert all(torch.equal(prepared[name], values[0]) for name, values in expected.items())
            continue
        assert prepared.dtype == torch.uint8
        difference = preprocessing.normalize(prepared[None]) - expected["pixel_values"]
        grey_levels = difference.abs() * torch.tensor(preprocessing.std).view(3, 1, 1) * 255
        assert grey_levels.max() < 2.01, image.size
        assert grey_levels.mean() < 0.05, image.size


def test_vectors_are_those_of_plain_transformers(case, images):
    batch = {name: torch.cat([inputs[name] for inputs in case.inputs]) for name in case.inputs[0]}
    with torch.inference_mode():
        expected = case.reference.vector(batch)
    prediction = case.model.predict(case.prepared)
    assert prediction.failures == {"embedding": {}}
    assert prediction.columns["embedding"].dtype == np.float32
    assert prediction.columns["embedding"].shape == expected.shape == (len(images), case.model.embedding_dim)
    assert cosines(prediction.columns["embedding"], expected.numpy()).min() >= 0.9999


def test_the_reference_of_a_large_photo_holds_one_copy_of_its_pixels(clip):
    """Besides the picture of Pillow's, whose memory is not counted here."""
    pixels = np.zeros((2000, 3000, 3), dtype=np.uint8)
    tracemalloc.start()
    clip.reference.prepare(Inputs(pixels))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1.5 * pixels.nbytes


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read as Linux has it")
@pytest.mark.parametrize("size", [(6000, 2), (2, 6000)])
def test_an_extremely_narrow_image_gives_its_centre_in_bounded_memory(clip, photos, size):
    image = photos[0].resize(size)
    left, top = (max(edge // 2 - 10, 0) for edge in size)
    middle = image.crop((left, top, size[0] - left, size[1] - top))  # whole pixels of the same phase
    expected = clip.network.process(middle)["pixel_values"]
    pixels = np.array(image)
    before = peak_memory_bytes(reset=True)
    prepared = clip.prepare(Inputs(pixels))
    assert peak_memory_bytes() - before < 50e6  # the whole resize would take 600 MB
    assert (prepared - clip.network.preprocessing.grey_levels(expected)[0]).abs().max() < 2.01


def test_an_image_that_the_models_own_processor_would_blow_up_is_refused(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    put_processor(folder, resample=0)  # nearest neighbour: not on the fast path
    model = ImageEmbedder(recipe(folder))
    assert model.network.preprocessing is None
    assert model.prepare(Inputs(np.zeros((10, 200, 3), np.uint8)))["pixel_values"].shape == (3, 224, 224)
    with pytest.raises(ImageError, match=r"^too_many_pixels: 100000 x 1: .*more than 20 times"):
        model.prepare(Inputs(np.zeros((1, 100_000, 3), np.uint8)))


@pytest.mark.parametrize("name", ["resnet", "swin"])
def test_a_processor_that_leaves_images_their_shape_gives_in_a_batch_what_it_gives_alone(
    tmp_path, photos, name
):
    save_model(name, tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(steps("CLIP", BICUBIC, size={"shortest_edge": 64}, do_center_crop=False))
    )
    model = ImageEmbedder(recipe(tmp_path))
    prepared = prepare_all(model, photos)
    assert len({tuple(item["pixel_values"].shape) for item in prepared}) > 2
    alone = np.concatenate([model.predict([item]).columns["embedding"] for item in prepared])
    np.testing.assert_allclose(model.predict(prepared).columns["embedding"], alone, atol=1e-6)
    assert cosines(alone[:1], alone[1:]).max() < 0.9999


def test_a_network_of_one_shape_whose_processor_leaves_images_theirs_is_refused(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    put_processor(folder, do_center_crop=False)
    with pytest.raises(ModelError, match=r"its network takes only one \(not 3 x 224 x 336.*do_center_crop"):
        ImageEmbedder(recipe(folder))


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (ValueError("no\nchannels"), "corrupt"),
        (TypeError("an int"), "corrupt"),
        (RuntimeError("shape"), "corrupt"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
    ],
    ids=repr,
)
def test_what_the_models_own_processor_raises_is_about_its_image(tmp_path, monkeypatch, raised, code):
    save_model("siglip2-naflex", tmp_path)
    model = ImageEmbedder(recipe(tmp_path))

    def fail(*args, **options):
        raise raised

    monkeypatch.setattr(model.network, "processor", fail)
    with pytest.raises(ImageError) as caught:
        model.prepare(Inputs(np.zeros((9, 9, 3), np.uint8)))
    assert caught.value.code == code
    assert "\n" not in caught.value.detail


def put_processor(folder: Path, **values) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def peak_memory_bytes(*, reset: bool = False) -> int:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


@pytest.mark.parametrize("name", ["clip", "material/clip-tiny"])
def test_bfloat16_gives_nearly_the_vectors_of_float32(name, photos, request, clip_folder):
    folder = clip_folder if name == "clip" else request.getfixturevalue("material") / "clip-tiny"
    vectors = []
    for dtype in ("float32", "bfloat16"):
        model = ImageEmbedder(recipe(folder, dtype=dtype))
        assert model.recipe.dtype == dtype
        vectors.append(model.predict(prepare_all(model, photos)).columns["embedding"])
    assert cosines(*vectors).min() >= 0.999
    assert not np.array_equal(*vectors)


def test_vectors_have_length_1_only_with_normalize(clip, clip_folder, photos):
    plain = ImageEmbedder(recipe(clip_folder, normalize=False))
    normalised, raw = (
        model.predict(prepare_all(model, photos)).columns["embedding"] for model in (clip, plain)
    )
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert abs(lengths - 1).min() > 0.01
    np.testing.assert_allclose(normalised, raw / lengths, atol=1e-6)


def test_a_vector_with_nan_fails_its_own_row_only(tmp_path, photos):
    save_model("siglip2-naflex", tmp_path)  # whose prepared images are floats
    model = ImageEmbedder(recipe(tmp_path))
    prepared = prepare_all(model, photos)
    expected = model.predict(prepared).columns["embedding"]
    prepared[2]["pixel_values"][0] = torch.nan
    prediction = model.predict(prepared)
    assert {row: error.code for row, error in prediction.failures["embedding"].items()} == {2: "bad_vector"}
    np.testing.assert_allclose(
        np.delete(prediction.columns["embedding"], 2, 0), np.delete(expected, 2, 0), atol=1e-6
    )


@pytest.mark.parametrize(("weight", "detail"), [(0.0, "only zeros"), (float("inf"), "NaN or infinity")])
def test_a_network_that_gives_no_vectors_fails_every_row(clip_folder, tmp_path, photos, weight, detail):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    change_weights(folder, lambda weights: weights["visual_projection.weight"].fill_(weight))
    model = ImageEmbedder(recipe(folder))
    failures = model.predict(prepare_all(model, photos)).failures["embedding"]
    assert [failures[row].code for row in range(len(photos))] == ["bad_vector"] * len(photos)
    assert all(detail in failure.detail for failure in failures.values())
