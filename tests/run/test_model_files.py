"""A model that cannot be used is told before Spark starts, and without torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spark_embed import pipeline
from spark_embed.config import Config
from spark_embed.errors import ModelError
from spark_embed.run import dry_run
from spark_embed.spark import session

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 13760768\n"


def start_spark():
    raise RuntimeError("Spark is started")


@pytest.fixture
def folder(tmp_path, material) -> Path:
    """A model, to be spoiled."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for path in (material / "clip-tiny").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def config(tmp_path, shards, folder) -> Config:
    return Config(input_dir=str(shards), output_dir=str(tmp_path / "out"), model_directory=str(folder))


SPOILED = {
    "a missing folder": (lambda folder: folder.rename(f"{folder}.gone"), "there is no such folder"),
    "a file": (lambda f: (f.rename(f"{f}.gone"), f.write_text("")), "is a file; expected the folder"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
    "text model": (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "model_type 'bert'"),
    "cut weights": (lambda f: os.truncate(f / "model.safetensors", 10**6), "is no whole safetensors file"),
    "a pointer": (lambda f: (f / "model.safetensors").write_text(POINTER), "a Git LFS pointer.*git lfs pull"),
    "no processor": (
        lambda f: (f / "preprocessor_config.json").unlink(),
        "config.json: there is no",
    ),
    "a processor that is a list": (
        lambda f: (f / "preprocessor_config.json").write_text("[]"),
        "preprocessor_config.json: is not an object",
    ),
    "timm from elsewhere": (
        lambda f: (f / "config.json").write_text('{"architecture": "hf-hub:a/b"}'),
        "'hf-hub:a/b' is not the name of a timm network",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_an_unusable_model_is_told_before_spark_starts(name, config, folder):
    spoil, message = SPOILED[name]
    spoil(folder)
    with pytest.raises(ModelError, match=message) as caught:
        pipeline.run(start_spark, config)
    assert str(caught.value).startswith(f"--model_directory {folder}: ")
    assert not os.path.exists(config.output_dir)
    with pytest.raises(ModelError, match=message):
        dry_run.describe_run(start_spark, config)


def test_a_usable_model_starts_spark(config):
    with pytest.raises(RuntimeError, match="Spark is started"):
        pipeline.run(start_spark, config)


@pytest.mark.parametrize("master", ["yarn", "k8s://https://host", "spark://host:7077"])
def test_a_folder_that_only_the_workers_may_have_is_left_to_them(master, config, folder, monkeypatch):
    folder.rename(f"{folder}.gone")
    monkeypatch.setattr(session, "find_session", lambda: None)
    monkeypatch.setattr(session, "SparkConf", lambda: {"spark.master": master})
    with pytest.raises(RuntimeError, match="Spark is started"):
        pipeline.run(start_spark, config)


def test_the_look_at_a_model_imports_no_torch(folder):
    program = (
        "import sys; from spark_embed.models import Recipe, registry;"
        f"recipe = Recipe({str(folder)!r}); registry.find_check(recipe.kind)(recipe);"
        "print(sorted({'torch', 'transformers', 'timm', 'pyspark'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
