"""Whole runs that give labels: counted, resumed, retried and verified like those that give vectors."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from PIL import Image

from spark_embed.config import Config
from spark_embed.errors import ResumeError
from spark_embed.output.folder import Output
from spark_embed.output.verify import verify
from spark_embed.pipeline import run

from support.small_models import LABELS, save_classifier


@pytest.fixture
def vit(tmp_path):
    """A folder with a ViT that classifies, and the network itself."""
    return tmp_path / "vit", save_classifier("vit", tmp_path / "vit")


@pytest.fixture
def classify(spark, vit, tmp_path):
    """Run a folder through the ViT; returns metadata.json, the table of labels and the errors."""

    def classify(input_dir, table="predictions", **options):
        given = {"task": "classify", "model_directory": str(vit[0]), "output_dir": str(tmp_path / "out")}
        run(spark, Config(input_dir=str(input_dir), **{**given, **options}))
        tables = [pd.read_parquet(tmp_path / f"out/{name}.parquet") for name in (table, "errors")]
        return json.loads((tmp_path / "out/metadata.json").read_text()), *tables

    return classify


def write_shard(path: Path, images: list[bytes | None]) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"jpg": pa.array(images, pa.binary())}), path)


def labels_of(folder: Path, network: torch.nn.Module, images: list[bytes]) -> list[str]:
    """Return the label of each image by Pillow and transformers alone."""
    photos = [Image.open(BytesIO(data)) for data in images]
    pil = {"backend": "pil"} if int(transformers.__version__.split(".")[0]) >= 5 else {"use_fast": False}
    inputs = transformers.AutoImageProcessor.from_pretrained(folder, **pil)(photos, return_tensors="pt")
    with torch.inference_mode():
        return [LABELS[number] for number in network(**inputs).logits.argmax(dim=1)]


def test_every_row_has_a_label_or_an_error_and_a_second_run_goes_on(classify, vit, photo_bytes, tmp_path):
    broken = [b"no image", None, photo_bytes[0][:400]]
    write_shard(tmp_path / "in/0.parquet", [*photo_bytes, *broken])
    metadata, labels, errors = classify(tmp_path / "in", top_k=3, min_score=0.2)
    assert metadata["counts"]["errors_by_code"] == {"corrupt": 1, "not_an_image": 1, "null_bytes": 1}
    assert labels.sort_values("shard_row")["label"].to_list() == labels_of(*vit, photo_bytes)
    n_kept = labels["top_scores"].map(len)
    assert n_kept.between(0, 3).all()
    assert n_kept.min() < 3  # and no row is missing for that
    assert (n_kept == labels["top_labels"].map(len)).all()
    assert all(scores.min() >= 0.2 for scores in labels["top_scores"] if len(scores))
    assert [LABELS[number] for number in labels["label_id"]] == labels["label"].to_list()
    assert labels["score"].dtype == np.float32
    assert not (tmp_path / "out/embeddings.parquet").exists()
    parity = metadata["parity"]
    assert parity["n_same_label"] == parity["n_images"] == len(photo_bytes)
    assert metadata["model"]["n_labels"] == len(LABELS)

    write_shard(tmp_path / "in/1.parquet", photo_bytes[:2])
    metadata, labels, errors = classify(tmp_path / "in", top_k=3, min_score=0.2, retry_errors=True)
    assert metadata["this_run"]["rows"] == 2 + len(broken)
    assert len(labels) == len(photo_bytes) + 2
    assert len(errors) == len(broken)
    assert verify(Output(str(tmp_path / "out"))).n_findings == 0


def test_a_run_of_another_task_does_not_go_on_with_it(classify, photo_bytes, tmp_path):
    write_shard(tmp_path / "in/0.parquet", photo_bytes[:2])
    _, labels, _ = classify(tmp_path / "in", "embeddings", task="auto", with_embedding=True)
    np.testing.assert_allclose([np.linalg.norm(one) for one in labels["embedding"]], 1, atol=1e-6)
    assert labels["label"].isin(LABELS).all()
    with pytest.raises(ResumeError, match=r"differs from this one in .*output: softmax of the logits -> CLS"):
        classify(tmp_path / "in", task="embed")
    with pytest.raises(ResumeError, match="top_k: 5 -> 2"):
        classify(tmp_path / "in", with_embedding=True, top_k=2)
    classify(tmp_path / "in", "embeddings", task="embed", overwrite=True)
    with pytest.raises(ResumeError, match="output: CLS token after the last layer norm -> softmax"):
        classify(tmp_path / "in")


def test_odd_images_are_labelled_or_told(classify, material, tmp_path):
    files = sorted(path for path in (material / "hostile").iterdir() if path.suffix != ".csv")[::8]
    for shard in range(2):
        write_shard(tmp_path / f"in/{shard}.parquet", [path.read_bytes() for path in files[shard::2]])
    metadata, labels, errors = classify(tmp_path / "in")
    assert metadata["counts"]["rows"] == len(labels) + len(errors) == len(files)
    assert len(errors) > 0
    assert labels["label"].isin(LABELS).all()
    assert verify(Output(str(tmp_path / "out"))).n_findings == 0
