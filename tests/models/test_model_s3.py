"""--model_directory in S3: the vectors of the same folder here, and what is said where it cannot be used."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from spark_embed.config import ModelOptions
from spark_embed.errors import ConfigError, ModelError
from spark_embed.inference.recipes import make_recipe
from spark_embed.models.folder import find_folder
from spark_embed.models.registry import IMAGE_CLASSIFIER, IMAGE_EMBEDDER, find_kind
from spark_embed.models.vision.image_embedder import ImageEmbedder

from support.commands import BIN, run_command
from support.small_models import pickle_weights, prepare_all, recipe, save_model

pytestmark = pytest.mark.usefixtures("model_copies")


@pytest.fixture
def clip_folder(material, tmp_path) -> Path:
    """A folder with a CLIP, to be changed before it is uploaded."""
    return Path(shutil.copytree(material / "clip-tiny", tmp_path / "clip", copy_function=shutil.copyfile))


@pytest.fixture
def upload(bucket, s3_server):
    """Put a folder's files into S3; returns the folder's URI there."""

    def upload(folder: Path, key: str = "models/clip") -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                s3_server.client().upload_file(str(path), bucket, f"{key}/{path.relative_to(folder)}")
        return f"s3a://{bucket}/{key}"

    return upload


def names_of(copy: str) -> list[str]:
    return sorted(os.listdir(copy))


def test_auto_asks_the_config_in_s3_what_the_model_is(clip_folder, upload, monkeypatch):
    uri = upload(clip_folder)
    monkeypatch.setattr("spark_embed.models.folder.copy_folder", lambda *_: pytest.fail("fetched it"))
    assert find_kind(ModelOptions(model_directory=f"{uri}/", task="auto")) == IMAGE_EMBEDDER
    (clip_folder / "config.json").write_text('{"architectures": ["ViTForImageClassification"]}')
    upload(clip_folder)
    assert find_kind(ModelOptions(model_directory=uri, task="auto")) == IMAGE_CLASSIFIER
    with pytest.raises(ModelError, match=r"^--model_directory s3a://\S+/gone: no config\.json in it"):
        find_kind(ModelOptions(model_directory=f"{uri}/gone", task="auto"))


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_vectors_are_those_of_the_same_folder_here(clip_folder, upload, photos, scheme):
    uri = upload(clip_folder)
    given = ModelOptions(model_directory=uri.replace("s3a", scheme, 1) + "/", dtype="float32")
    there, here = ImageEmbedder(make_recipe(given)), ImageEmbedder(recipe(clip_folder))
    np.testing.assert_array_equal(
        *(m.predict(prepare_all(m, photos)).columns["embedding"] for m in (there, here))
    )
    about, expected = there.describe(), here.describe()
    assert (about.pop("name"), about.pop("source")) == (uri, uri)
    assert (expected.pop("name"), expected.pop("source")) == ("clip", str(clip_folder))
    assert about == expected


def test_a_recipe_of_s3_is_made_where_nobody_can_look_at_it():
    assert (
        make_recipe(ModelOptions(model_directory="s3://no-such-bucket/m/")).source == "s3a://no-such-bucket/m"
    )


@pytest.mark.parametrize(
    "uri", ["s3://", "s3://key:word@bucket/m", "s3a://bucket/a/../m", "s3://bucket/a//m"]
)
def test_what_can_be_no_folder_in_s3_is_refused(uri):
    with pytest.raises(ConfigError, match=r"^--model_directory") as caught:
        make_recipe(ModelOptions(model_directory=uri))
    assert "word" not in str(caught.value)


def test_only_what_is_read_is_fetched_and_code_only_where_it_may_run(clip_folder, upload):
    decoys = (
        "open_clip_model.safetensors",
        "model-00001-of-00001.safetensors",
        "pytorch_model.bin",
        "x.onnx",
    )
    for name in ("modeling.py", "below/y.json", *decoys):
        (clip_folder / name).parent.mkdir(exist_ok=True)
        (clip_folder / name).write_text("never read")
    uri = upload(clip_folder)
    expected = ["config.json", "merges.txt", "model.safetensors", "preprocessor_config.json"]
    expected += ["tokenizer_config.json", "vocab.json"]
    assert names_of(find_folder(recipe(uri))[0]) == expected
    assert names_of(find_folder(recipe(uri, allow_pickle_weights=True))[0]) == expected
    with_code, _ = find_folder(recipe(uri, trust_remote_code=True))
    assert names_of(with_code) == sorted([*expected, "modeling.py"])
    assert names_of(find_folder(recipe(uri))[0]) == expected  # not the one with code


CODE = """
from transformers import CLIPImageProcessor

class OwnProcessor(CLIPImageProcessor):
    pass
"""


def test_a_folders_own_code_runs_only_where_it_may(clip_folder, upload, tmp_path, monkeypatch):
    # transformers copies the code, and imports it from there
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = clip_folder / "preprocessor_config.json"
    auto_map = {"AutoImageProcessor": "own_code.OwnProcessor"}
    values = {**json.loads(path.read_text()), "image_processor_type": "OwnProcessor", "auto_map": auto_map}
    path.write_text(json.dumps(values))
    (clip_folder / "own_code.py").write_text(CODE)
    uri = upload(clip_folder)
    assert "image processor cannot be loaded" in refusal(uri)
    assert (
        type(ImageEmbedder(recipe(uri, trust_remote_code=True)).network.processor).__name__ == "OwnProcessor"
    )


def test_pickled_weights_are_fetched_only_where_they_are_allowed(tmp_path, upload, model_copies):
    save_model("clip", tmp_path / "clip")
    pickle_weights(tmp_path / "clip")
    uri = upload(tmp_path / "clip")
    assert "only pickled weights (pytorch_model.bin)" in refusal(uri)
    assert not model_copies.exists()
    copy, _ = find_folder(recipe(uri, allow_pickle_weights=True))
    assert "pytorch_model.bin" in names_of(copy)


def test_a_model_of_many_files_is_fetched_whole(clip_folder, upload):
    import transformers

    network = transformers.CLIPModel.from_pretrained(clip_folder)
    (clip_folder / "model.safetensors").unlink()
    network.save_pretrained(clip_folder, max_shard_size="4MB")
    there, here = ImageEmbedder(recipe(upload(clip_folder))), ImageEmbedder(recipe(clip_folder))
    assert len(list(clip_folder.glob("*.safetensors"))) > 1
    assert there.recipe.weights_sha256 == here.recipe.weights_sha256


def refusal(uri: str, **options) -> str:
    with pytest.raises(ModelError) as caught:
        ImageEmbedder(recipe(uri, **options))
    text = str(caught.value)
    assert text.startswith(f"--model_directory {uri}: ")
    assert "\n" not in text
    assert text.count(uri) < 3
    return text


def test_what_cannot_be_used_is_refused_in_one_clear_line(clip_folder, upload, bucket, model_copies):
    assert "there is no such folder" in refusal(f"s3a://{bucket}/none")
    assert "there is no such folder" in refusal(f"s3a://{bucket}")
    assert "there is no bucket no-such-bucket" in refusal("s3a://no-such-bucket/models/clip")
    uri = upload(clip_folder)
    assert "it holds only folders" in refusal(f"s3a://{bucket}/models")  # one too high
    with pytest.raises(ModelError, match=f"^--revision v1: .*{uri} is a folder$"):
        find_folder(recipe(uri, revision="v1"))
    (clip_folder / "model.safetensors").unlink()
    assert "no weights in it (model.safetensors" in refusal(upload(clip_folder, "no-weights"))
    (clip_folder / "config.json").unlink()
    assert "no config.json in it" in refusal(upload(clip_folder, "no-config"))
    assert not model_copies.exists()  # all that was seen before anything was fetched


def test_who_may_not_read_it_is_told_so(clip_folder, upload, bucket, s3_server, monkeypatch):
    uri = upload(clip_folder)
    user = s3_server.make_user(f"USER{bucket}", "secret-of-a-user")
    user.set_environment(monkeypatch)
    assert "cannot be listed: access denied" in refusal(uri)
    s3_server.allow(bucket, user.access_key, action="s3:ListBucket")
    text = refusal(uri)
    assert "config.json: cannot be read" in text
    assert "access denied" in text
    s3_server.allow(bucket, user.access_key, action="s3:GetObject")
    ImageEmbedder(recipe(uri))
    user.seen_by(user.access_key, "another").set_environment(monkeypatch)
    assert "does not accept these credentials" in refusal(uri)


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_weights_from_s3(
    embed, tiny_clip, shards, upload, tmp_path, model_copies
):
    first, *more = sorted(Path(shards).glob("*.parquet"))
    (tmp_path / "in").mkdir()
    shutil.copy(first, tmp_path / "in")
    embed(tmp_path / "in")
    for shard in more:
        shutil.copy(shard, tmp_path / "in")
    uri = upload(tiny_clip)
    # In a process of its own: that has a folder of its own for copies.
    paths = ["--input_dir", tmp_path / "in", "--output_dir", tmp_path / "out"]
    done = run_command(BIN / "spark-embed", *paths, "--model_directory", uri)
    assert done.returncode == 0, done.stderr[-2000:]
    metadata = json.loads((tmp_path / "out/metadata.json").read_text())
    assert metadata["counts"]["rows"] == 27
    assert metadata["model"]["source"] == metadata["model"]["name"] == uri
    assert len([path for path in model_copies.iterdir() if path.is_dir()]) == 1
