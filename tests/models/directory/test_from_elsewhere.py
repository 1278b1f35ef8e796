"""A folder with code in S3 or on the hub: it runs only where it may, and is the same as here."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from spark_embed.config import ModelOptions
from spark_embed.errors import ModelError, StorageError
from spark_embed.inference.recipes import make_recipe
from spark_embed.models import Inputs
from spark_embed.models.directory.model_folder import ModelFolder
from spark_embed.models.directory.recognise import check_folder
from spark_embed.models.local_copy import copy_folder
from spark_embed.models.registry import IMAGE_EMBEDDER, MODEL_FOLDER
from spark_embed.models.vision.image_embedder import ImageEmbedder
from spark_embed.storage import StoredFile

from support.model_folders import MEAN_COLOUR, recipe_of, write_folder
from support.s3_runs import upload_tree

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFUSED = r"holds code of its own \(model\.py\), which runs from S3 or a hub only with --trust_remote_code"


@pytest.fixture
def folder(tmp_path) -> Path:
    """One with a file and weights below it, whose code says what it was given."""
    code = MEAN_COLOUR.replace(
        "self.scale = 1.0", "from .sub import helper\n        self.scale = helper.scale(self.weights)"
    )
    folder = write_folder(tmp_path / "model", code, weights="weights")
    for name, text in (
        ("sub/helper.py", "def scale(path):\n    return float(open(path + '/scale.txt').read())"),
        ("weights/scale.txt", "3"),
    ):
        (folder / name).parent.mkdir()
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Put a folder into the hub's cache; nothing reaches for the network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def hub(folder: Path, name: str = "org/model") -> str:
        cached = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, cached / "snapshots" / COMMIT)
        (cached / "refs").mkdir()
        (cached / "refs/main").write_text(COMMIT)
        return name

    return hub


def options_of(source: str, *, trusted: bool = True) -> ModelOptions:
    return ModelOptions(model_directory=source, trust_remote_code=trusted, normalize=False)


def red(model: ModelFolder) -> float:
    return model.predict([model.prepare(Inputs(np.full((8, 8, 3), 10, np.uint8)))]).columns["embedding"][0, 0]


@pytest.mark.usefixtures("model_copies")
def test_from_s3_it_runs_only_where_it_may(folder, bucket, s3_server, log):
    uri = upload_tree(s3_server, folder, bucket, "models/mine")
    with pytest.raises(ModelError, match=REFUSED):
        make_recipe(options_of(uri, trusted=False))
    recipe = make_recipe(options_of(uri))
    assert recipe.kind == MODEL_FOLDER
    check_folder(recipe)
    assert f"runs the folder's own code, {recipe.source}/model.py" in log.text
    with pytest.raises(ModelError, match=REFUSED):  # a driver that could not look has sent it all the same
        ModelFolder(recipe_of(recipe.source))
    there, here = ModelFolder(recipe), ModelFolder(recipe_of(folder, normalize=False))
    assert red(there) == red(here) == 30
    assert there.recipe.weights_sha256 == here.recipe.weights_sha256
    (folder / "weights/scale.txt").write_text("4")
    upload_tree(s3_server, folder, bucket, "models/mine")
    changed = make_recipe(options_of(uri))
    assert changed != recipe
    assert red(ModelFolder(changed)) == 40


@pytest.mark.usefixtures("model_copies")
def test_from_s3_it_is_looked_at_before_spark_starts(folder, bucket, s3_server):
    (folder / "model.py").write_text("class Model: pass")
    with pytest.raises(ModelError, match=r"model\.py has no class ModelImpl"):
        check_folder(make_recipe(options_of(upload_tree(s3_server, folder, bucket, "models/mine"))))
    write_folder(folder, weights="../other")
    uri = upload_tree(s3_server, folder, bucket, "models/mine")
    with pytest.raises(ModelError, match=r"weights '\.\./other': there is no such folder|lies outside"):
        ModelFolder(make_recipe(options_of(uri)))


@pytest.mark.usefixtures("model_copies")
def test_a_key_that_leads_out_of_the_copy_is_refused(tmp_path):
    with pytest.raises(StorageError, match=r"its key has a '\.\.'"):
        copy_folder("s3a://bucket/m", [StoredFile("../../.bashrc", 3)])


def test_from_the_hub_it_runs_only_where_it_may(folder, hub):
    name = hub(folder)
    for trusted, said in (
        (False, REFUSED),
        (True, "the driver, which chooses how a model runs, cannot see that"),
    ):
        recipe = make_recipe(options_of(name, trusted=False))
        assert recipe.kind == IMAGE_EMBEDDER  # the driver does not ask the hub for what may not run
        with pytest.raises(ModelError, match=said):
            ImageEmbedder(
                make_recipe(options_of(name, trusted=False)).__class__(
                    **{**recipe.__dict__, "trust_remote_code": trusted}
                )
            )
    recipe = make_recipe(options_of(name))
    assert recipe.kind == MODEL_FOLDER
    check_folder(recipe)
    model = ModelFolder(recipe)
    assert (red(model), model.recipe.revision) == (30, COMMIT)
    assert model.recipe.weights_sha256 == ModelFolder(recipe_of(folder)).recipe.weights_sha256


def test_of_the_hub_only_code_that_runs_is_said_to(tmp_path, hub, log):
    name = hub(write_folder(tmp_path / "plain", None, model_type="clip"), "org/plain")
    assert make_recipe(options_of(name)).kind == IMAGE_EMBEDDER
    assert "runs the folder's own code" not in log.text


def test_weights_may_be_a_hub_id(tmp_path, hub, clip_folder):
    name = hub(clip_folder, "org/clip")
    code = MEAN_COLOUR.replace(
        "self.scale = 1.0", "import os; self.scale = float(len(os.listdir(self.weights)))"
    )
    folder = write_folder(tmp_path / "model", code, weights=name)
    first = ModelFolder(recipe_of(folder, normalize=False))
    assert red(first) == 10 * len(list(clip_folder.iterdir()))
    snapshot = tmp_path / "hub/models--org--clip/snapshots" / COMMIT
    (snapshot / "flax_model.msgpack").write_text("not fetched")
    assert ModelFolder(recipe_of(folder)).recipe.weights_sha256 == first.recipe.weights_sha256
    (snapshot / "preprocessor_config.json").write_text("{}")
    assert ModelFolder(recipe_of(folder)).recipe.weights_sha256 != first.recipe.weights_sha256
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(
        ModelError, match=r"config\.json: weights 'org/clip': no weights in it .*--allow_pickle_weights"
    ):
        ModelFolder(recipe_of(folder))
    write_folder(folder, code, weights="org/none")
    with pytest.raises(
        ModelError, match=r"config\.json: weights 'org/none': neither a folder here nor a hub id"
    ):
        ModelFolder(recipe_of(folder))
