"""Folders with code in whole runs: the examples of the repository, bad rows, and code that changes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from spark_embed import image_embedding
from spark_embed.config import Config
from spark_embed.errors import ConfigError, ResumeError
from spark_embed.models.registry import MODEL_FOLDER
from spark_embed.output.folder import Output
from spark_embed.output.verify import verify
from spark_embed.pipeline import run

from support.checkout import REPOSITORY
from support.image_files import encode
from support.model_folders import MEAN_COLOUR, write_folder

EXAMPLES = REPOSITORY / "models"


@pytest.fixture
def example(tmp_path):
    """Copy a folder of the repository, its weights replaced by small ones."""

    def example(name: str, weights: Path) -> Path:
        folder = tmp_path / name
        shutil.copytree(EXAMPLES / name, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "weights": str(weights)}))
        return folder

    return example


@pytest.fixture(scope="module")
def tiny_resnet(tmp_path_factory) -> Path:
    """A classifier of three labels, of random weights."""
    folder = tmp_path_factory.mktemp("models") / "resnet"
    torch.manual_seed(0)
    names = {0: "cat", 1: "dog", 2: "rocket"}
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    config = transformers.ResNetConfig(**sizes, id2label=names, label2id={v: k for k, v in names.items()})
    network = transformers.ResNetForImageClassification(config)
    network.classifier[1].weight.data *= 30  # so that photos differ in their label
    network.save_pretrained(folder)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(folder)
    return folder


def plain(folder: Path, head, photos, of):
    """Return what plain transformers gives of photos."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    network = head.from_pretrained(folder).eval()
    with torch.inference_mode():
        return of(network, processor(photos, return_tensors="pt")["pixel_values"])


def test_the_clip_of_the_examples_gives_the_vectors_of_transformers(
    embed, example, tiny_clip, tmp_path, photos
):
    (tmp_path / "in").mkdir()
    files = [encode(photo, image_format="PNG") for photo in photos]
    table = {"key": [str(row) for row in range(7)], "png": [*files, b"broken"]}
    pq.write_table(pa.table(table), tmp_path / "in/0.parquet")
    folder = example("clip", tiny_clip)
    metadata, embeddings, errors = embed(tmp_path / "in", model_directory=str(folder), image_column="png")

    def features(network, pixels):
        found = network.get_image_features(pixel_values=pixels)
        return getattr(found, "pooler_output", found)

    expected = plain(tiny_clip, transformers.CLIPModel, photos, features).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    embeddings = embeddings.sort_values("key")
    np.testing.assert_allclose(np.stack(embeddings["embedding"].to_list()), expected, atol=1e-5)
    assert errors["error"].to_list() == ["not_an_image"]
    assert metadata["parity"]["unmeasured"] == "this kind of model has no reference"
    model = metadata["model"]
    assert (model["name"], model["version"], model["type"], model["embedding_dim"]) == (
        "clip",
        "1.0",
        "embedding",
        24,
    )
    assert verify(Output(str(embed.output_dir))).n_findings == 0


def test_the_classifier_of_the_examples_gives_the_labels_of_transformers(
    spark, example, tiny_resnet, tmp_path, photos
):
    (tmp_path / "in").mkdir()
    table = {"id": list(range(6)), "png": [encode(photo, image_format="PNG") for photo in photos]}
    pq.write_table(pa.table(table), tmp_path / "in/0.parquet")
    folder = example("classifier", tiny_resnet)
    output = tmp_path / "out"
    run(
        spark,
        Config(
            input_dir=str(tmp_path / "in"),
            output_dir=str(output),
            model_directory=str(folder),
            image_column="png",
        ),
    )
    rows = pd.read_parquet(output / "predictions.parquet").sort_values("id")
    head = transformers.AutoModelForImageClassification
    scores = plain(tiny_resnet, head, photos, lambda network, pixels: network(pixels).logits.softmax(1))
    names = ["cat", "dog", "rocket"]
    assert rows["label"].to_list() == [names[number] for number in scores.argmax(1)]
    assert rows["label_id"].to_list() == scores.argmax(1).tolist()
    best = scores.sort(1, descending=True)
    np.testing.assert_allclose(rows["score"], best.values[:, 0], atol=1e-4)
    np.testing.assert_allclose(np.stack(rows["top_scores"].to_list()), best.values, atol=1e-4)
    assert [list(labels) for labels in rows["top_labels"]] == [
        [names[n] for n in row] for row in best.indices
    ]
    assert verify(Output(str(output))).n_findings == 0


def no_spark():
    raise RuntimeError("Spark is started")


CAPTIONED = """
import sys
from . import words

print("imported")


class ModelImpl(words.Words):
    def load(self):
        print("loaded", file=sys.stdout, flush=True)

    def warmup(self):
        pass

    def batch_size(self):
        return 3

    def batch_wait_s(self):
        return 0

    def encode(self, batch):
        print("x" * 100_000)
        assert len(batch) <= 3
        for row in batch:
            if row["text"] == "photo 2":
                raise ValueError("photo 2\\nis not wanted")
            if row["text"] == "photo 3":
                sys.exit(1)
        return [[len(row["text"]), *row["image"].size] for row in batch]
"""


def test_bad_rows_are_error_rows_and_changed_code_does_not_go_on(embed, shards, tmp_path, log):
    metadata = {"type": "embedding", "text_column": "caption"}
    folder = write_folder(tmp_path / "model", CAPTIONED, metadata=metadata)
    (folder / "words.py").write_text("class Words: pass")
    first, *more = sorted(Path(shards).glob("*.parquet"))
    (tmp_path / "in").mkdir()
    shutil.copy(first, tmp_path / "in")
    options = {"model_directory": str(folder), "normalize": False}
    metadata, embeddings, errors = embed(tmp_path / "in", **options)
    assert metadata["counts"]["errors_by_code"] == {"model_error": 2, "null_bytes": 1}
    assert sorted(errors["error_detail"].dropna())[:2] == [
        "SystemExit: 1",
        "ValueError: photo 2 is not wanted",
    ]
    assert sorted(embeddings["caption"]) == [f"photo {row}" for row in (0, 1, 4, 6, 7, 8)]
    assert [vector[0] for vector in embeddings["embedding"]] == [7] * 6
    assert "runs the folder's own code" in log.text
    assert verify(Output(str(embed.output_dir))).n_findings == 0

    shutil.copy(more[0], tmp_path / "in")
    helper = folder / "words.py"
    helper.write_text("class Words: x = 1")
    with pytest.raises(
        ResumeError, match=r"differs from this one in folder_sha256: \w{64} -> \w{64}\. Go on with"
    ):
        embed(tmp_path / "in", **options)
    helper.write_text("class Words: pass")
    assert embed(tmp_path / "in", **options)[0]["counts"]["rows"] == 18

    run(no_spark, Config(input_dir=str(tmp_path / "in"), output_dir=str(embed.output_dir), **options))
    helper.write_text("class Words: x = 1")
    with pytest.raises(ResumeError, match="folder_sha256"):  # also where nothing is left to embed
        embed(tmp_path / "in", **options)
    with pytest.raises(ConfigError, match=r"takes a column 'caption'"):
        embed(tmp_path / "in", **options, overwrite=True, drop_columns=("caption",))


def test_a_column_for_a_dataframe_is_for_folders_that_give_an_embedding(spark, shards, tmp_path):
    frame = spark.read.parquet(str(shards))
    folder = write_folder(tmp_path / "model", MEAN_COLOUR, name="mean")
    rows = frame.withColumn("embedding", image_embedding("jpg", model=str(folder), normalize=False)).collect()
    assert sorted(len(row["embedding"] or []) for row in rows) == [0] * 3 + [3] * 24
    metadata = {"type": "embedding", "text_column": "caption"}
    write_folder(folder, MEAN_COLOUR, metadata=metadata)
    with pytest.raises(
        Exception, match="makes embedding of an image, caption, image_embedding an embedding of an"
    ):
        frame.select(image_embedding("jpg", model=str(folder))).collect()


def test_it_is_chosen_whatever_the_name_of_the_folder(monkeypatch):
    from spark_embed.inference.recipes import make_recipe

    monkeypatch.chdir(REPOSITORY)
    for name in ("clip", "classifier"):
        recipe = make_recipe(Config(input_dir="a", output_dir="b", model_directory=f"models/{name}"))
        assert (recipe.kind, recipe.source) == (MODEL_FOLDER, str(EXAMPLES / name))
