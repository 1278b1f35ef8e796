"""Which files a model's weights are: those that are loaded are hashed, and lie in its folder."""

import json
import os
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from spark_embed.errors import ModelError
from spark_embed.models.vision import checkpoint
from spark_embed.models.vision.image_embedder import ImageEmbedder
from spark_embed.storage import LFS_POINTER

from support.small_models import change_weights, pickle_weights, prepare_all, recipe, save_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 605156676\n"
SAFE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "clip"
    save_model("clip", folder)
    return folder


@pytest.fixture
def folder(clip_folder, tmp_path) -> Path:
    return Path(shutil.copytree(clip_folder, tmp_path / "clip"))


def write_index(folder: Path, *names: object, index: str = INDEX) -> None:
    values = {"metadata": {}, "weight_map": {f"tensor {i}": name for i, name in enumerate(names)}}
    (folder / index).write_text(json.dumps(values))


def decoy(folder: Path, *names: object) -> None:
    """Put weights where one would look for them, and an index that names others."""
    (folder / SAFE).rename(folder / "model-00001-of-00001.safetensors")
    shutil.copy(folder / "model-00001-of-00001.safetensors", folder.parent / "other.safetensors")
    write_index(folder, *names)


def link_out(folder: Path) -> None:
    (folder / SAFE).rename(folder.parent / "other.safetensors")
    (folder / SAFE).symlink_to(folder.parent / "other.safetensors")


def put(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def pickle_under_another_name(folder: Path) -> None:
    pickle_weights(folder)
    (folder / "pytorch_model.bin").rename(folder / SAFE)


def index_of_pickles(folder: Path) -> None:
    pickle_weights(folder)
    write_index(folder, "pytorch_model.bin")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "outside": (
        lambda folder: decoy(folder, "../other.safetensors"),
        "other.safetensors', .*directly in",
    ),
    "absolute": (lambda folder: decoy(folder, str(folder.parent / "other.safetensors")), "not directly in"),
    "pickled": (index_of_pickles, "names 'pytorch_model.bin', which is no .safetensors file"),
    "not there": (lambda folder: decoy(folder, "gone.safetensors"), "'gone.safetensors', which is not there"),
    "a number": (lambda folder: decoy(folder, 7), "names 7, which is no .safetensors file"),
    "empty index": (decoy, f"{INDEX} is no index of weights: its weight_map is empty"),
    "shards without an index": (lambda f: (decoy(f, "x"), (f / INDEX).unlink()), "no weights in it"),
    "link": (link_out, "model.safetensors is a link to .*other.safetensors, outside the folder"),
    "named by config.json": (
        lambda folder: put(folder, transformers_weights="../other.safetensors"),
        "config.json names '../other.safetensors', which is not directly in the folder",
    ),
    "pickle named by config.json": (
        lambda folder: put(folder, transformers_weights="adapter_model.bin"),
        "'adapter_model.bin' is no safetensors file",
    ),
    "pickle under another name": (
        pickle_under_another_name,
        "model.safetensors is no whole safetensors file",
    ),
    "pointer": (lambda folder: (folder / SAFE).write_text(POINTER), f"model.safetensors is {LFS_POINTER}"),
    "pointer as config": (lambda f: (f / "config.json").write_text(POINTER), f"config.json is {LFS_POINTER}"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_weights_that_are_no_safetensors_of_the_folder_are_refused(name, folder):
    spoil, message = REFUSED[name]
    spoil(folder)
    with pytest.raises(ModelError) as caught:
        ImageEmbedder(recipe(folder))
    assert str(caught.value).startswith(f"--model_directory {folder}: ")
    assert re.search(message, str(caught.value))


def test_a_pickle_behind_an_index_of_safetensors_is_refused_though_pickles_are_allowed(folder):
    index_of_pickles(folder)
    with pytest.raises(ModelError, match=r"which is no \.safetensors file"):
        ImageEmbedder(recipe(folder, allow_pickle_weights=True))


def one_other(folder: Path) -> str:
    (folder / SAFE).rename(folder / "weights.safetensors")
    write_index(folder, "weights.safetensors")
    return "weights.safetensors"


def one_before_an_index(folder: Path) -> str:
    write_index(folder, "decoy.safetensors")
    return SAFE


def one_that_config_names(folder: Path) -> str:
    shutil.copy(folder / SAFE, folder / "weights.safetensors")
    put(folder, transformers_weights="weights.safetensors")
    change_weights(folder, lambda weights: weights["visual_projection.weight"].neg_())
    return "weights.safetensors"


def one_beside_an_adapter(folder: Path) -> str:
    values = {"base_model_name_or_path": str(folder / "elsewhere"), "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return SAFE


@pytest.mark.parametrize(
    "change", [one_other, one_before_an_index, one_that_config_names, one_beside_an_adapter]
)
def test_what_is_loaded_is_what_is_hashed(change, folder, clip_folder, photos):
    expected = ImageEmbedder(recipe(clip_folder))
    decoys = ("decoy.safetensors", "model-00001-of-00001.safetensors")
    loaded = change(folder)
    for name in decoys:
        (folder / name).write_bytes(b"never read")
    model = ImageEmbedder(recipe(folder))
    assert model.recipe.weights_sha256 == sha256((folder / loaded).read_bytes()).hexdigest()
    vectors = [m.predict(prepare_all(m, photos)).columns["embedding"] for m in (expected, model)]
    np.testing.assert_array_equal(*vectors)


def test_the_links_of_the_hubs_cache_are_followed_and_no_others(clip_folder, tmp_path):
    cache = tmp_path / "models--org--clip"
    (cache / "blobs").mkdir(parents=True)
    snapshot = Path(shutil.copytree(clip_folder, cache / "snapshots" / ("0" * 40)))
    (snapshot / SAFE).rename(cache / "blobs" / "f00")
    (snapshot / SAFE).symlink_to(Path("..", "..", "blobs", "f00"))
    assert ImageEmbedder(recipe(snapshot)).recipe == ImageEmbedder(recipe(snapshot)).recipe
    (snapshot / SAFE).unlink()
    shutil.copy(cache / "blobs" / "f00", cache / "other")
    (snapshot / SAFE).symlink_to(cache / "other")
    with pytest.raises(ModelError, match=f"is a link to {cache}/other, outside the folder"):
        ImageEmbedder(recipe(snapshot))


def test_a_folder_that_is_a_link_is_its_target(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert ImageEmbedder(recipe(tmp_path / "link")).network.name == "link"


def test_weights_that_are_written_to_later_change_no_vector(folder, photos):
    model = ImageEmbedder(recipe(folder))
    vectors = model.predict(prepare_all(model, photos)).columns["embedding"]
    with (folder / SAFE).open("r+b") as file:
        file.seek(-100_000, os.SEEK_END)
        file.write(bytes(100_000))
    np.testing.assert_array_equal(model.predict(prepare_all(model, photos)).columns["embedding"], vectors)


def test_weights_that_change_while_they_are_loaded_are_refused(folder, monkeypatch):
    load = checkpoint.load_weights

    def load_and_replace(paths):
        state = load(paths)
        os.replace(shutil.copy(paths[0], f"{paths[0]}.new"), paths[0])
        return state

    monkeypatch.setattr(checkpoint, "load_weights", load_and_replace)
    with pytest.raises(ModelError, match="the weights changed while they were loaded"):
        ImageEmbedder(recipe(folder))
