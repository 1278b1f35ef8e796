"""Captions, texts without images and labels given as words, through whole runs."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from spark_embed.config import Config
from spark_embed.errors import ConfigError, ModelError, ResumeError
from spark_embed.output.folder import Output
from spark_embed.output.verify import verify
from spark_embed.pipeline import run

from support.text_models import save_text_model
from support.vectors import cosines

LONG = "a dog that barks all night"
CAPTIONS = ["a cat", None, "", LONG, "a dog", "a broken one", None]
IMAGES = [True, True, True, True, None, False, None]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "clip"
    return folder, save_text_model("clip", folder)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "siglip"
    return folder, save_text_model("siglip", folder)


@pytest.fixture
def captioned(tmp_path, photo_bytes):
    """Two shards of the same rows: whatever can be wrong with one side or with both."""
    (tmp_path / "in").mkdir()
    for shard in range(2):
        images = [photo_bytes[row % 4] if is_there else is_there for row, is_there in enumerate(IMAGES)]
        images = [b"broken" if image is False else image for image in images]
        pq.write_table(pa.table({"caption": CAPTIONS, "jpg": images}), tmp_path / f"in/{shard}.parquet")
    return tmp_path / "in"


@pytest.fixture
def go(spark, tmp_path):
    """Run with these options; returns metadata.json and the two tables."""

    def go(input_dir, model, **options):
        config = {"input_dir": str(input_dir), "output_dir": str(tmp_path / "out"), "dtype": "float32"}
        run(spark, Config(**{**config, "model_directory": model and str(model), **options}))
        output = Output(str(tmp_path / "out"))
        report = verify(output)
        assert report.n_findings == 0, report.text()
        metadata = json.loads((tmp_path / "out/metadata.json").read_text())
        name = "predictions" if options.get("task") == "classify" else "embeddings"
        tables = [pd.read_parquet(tmp_path / f"out/{table}.parquet") for table in (name, "errors")]
        return metadata, *(table.sort_values(["shard", "shard_row"]) for table in tables)

    return go


def test_captions_beside_images(go, captioned, clip):
    folder, plain = clip
    metadata, found, errors = go(captioned, folder, text_column="caption")
    assert metadata["counts"]["rows"] == 14
    assert metadata["counts"]["errors_by_result"] == {
        "embedding": {"not_an_image": 2, "null_bytes": 4},
        "text": {"no_text": 6},
        "clip_score": {"no_text": 4, "not_an_image": 2, "null_bytes": 4},
    }
    parity = metadata["parity"]  # an image counts whatever its caption is
    assert parity["min_cosine"] > 0.9999
    assert 0 < parity["by_result"]["text"]["n_compared"] < parity["n_images"]
    assert set(parity["by_result"]) == {"embedding", "text"}
    assert errors["shard_row"].to_list() == [6, 6]
    assert errors[["embedding_error", "text_error"]].to_numpy().tolist() == [["null_bytes", "no_text"]] * 2
    one = found[found["shard"] == "0.parquet"].set_index("shard_row")
    assert one["text_error"].to_list() == [None, "no_text", "no_text", None, None, None]
    assert one["embedding_error"].to_list() == [None] * 4 + ["null_bytes", "not_an_image"]
    assert one["text_truncated"].to_list() == [False, None, None, True, False, False]
    assert one["caption"].to_list() == CAPTIONS[:6]
    texts = np.stack(one["text_embedding"].dropna())
    expected = plain.text_vectors(["a cat", LONG, "a dog", "a broken one"]).numpy()
    assert cosines(texts, expected).min() > 0.999999
    scores = one["clip_score"].dropna()
    assert scores.index.to_list() == [0, 3]
    images = np.stack(one["embedding"].dropna())[[0, 3]]
    np.testing.assert_allclose(scores, cosines(images, texts[:2]), atol=1e-6)
    with pytest.raises(ResumeError, match="text_column: caption -> none"):
        go(captioned, folder)


@pytest.mark.parametrize("kind", ["parquet", "beside images", "csv", "jsonl"])
def test_texts_without_images(go, tmp_path, photo_bytes, clip, kind, monkeypatch):
    """What images there are is not read, nor carried along."""
    folder, plain = clip
    (tmp_path / "in").mkdir()
    texts = pd.DataFrame({"key": list("abcd"), "words": ["a cat, too", None, LONG, "see cat.jpg"]})
    if kind == "csv":
        texts.to_csv(tmp_path / "in/texts.csv", index=False)
    elif kind == "jsonl":
        texts.to_json(tmp_path / "in/texts.jsonl", orient="records", lines=True)
    else:
        images = {"jpg": [photo_bytes[0], b"broken", None, b""]} if kind == "beside images" else {}
        pq.write_table(pa.table({**texts, **images}), tmp_path / "in/0.parquet")
    metadata, found, errors = go(tmp_path / "in", folder, task="embed_text", text_column="words")
    assert not {"jpg", "embedding"}.intersection(found.columns)
    assert found["image_id"].to_list() == ["a", "c", "d"]
    assert found["words"].to_list() == ["a cat, too", LONG, "see cat.jpg"]
    assert found["text_truncated"].to_list() == [False, True, False]
    vectors = np.stack(found["text_embedding"])
    assert cosines(vectors, plain.text_vectors(found["words"].to_list()).numpy()).min() > 0.999999
    assert errors[["image_id", "error"]].to_numpy().tolist() == [["b", "no_text"]]
    assert metadata["counts"]["errors_by_code"] == {"no_text": 1}
    assert (metadata["parity"]["n_images"], metadata["parity"]["what"]) == (3, "texts")
    assert metadata["parity"]["min_cosine"] > 0.999999


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_labels_given_as_words(go, shards, tmp_path, photos, request, family):
    folder, plain = request.getfixturevalue(family)
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\n\ndog, small\n7\n")
    options = {"task": "classify", "labels": str(labels), "prompt": "a {}", "top_k": 2}
    metadata, found, errors = go(shards, folder, **options)
    assert len(errors) + len(found) == metadata["counts"]["rows"]
    logits = torch.stack([plain.logits(photo, ["a cat", "a dog, small", "a 7"]) for photo in photos])
    scores = logits.softmax(dim=1) if family == "clip" else logits.sigmoid()
    places = found["key"].str[0].astype(int) + found["shard_row"] - (found["shard_row"] > 5)
    best = scores.numpy()[places % len(photos)].max(axis=1)
    np.testing.assert_allclose(found["score"], best, atol=0.02)  # torch's resized pixels are not Pillow's
    assert set(found["label"]) <= {"cat", "dog, small", "7"}
    assert found["top_labels"].map(len).eq(2).all()
    assert metadata["model"]["prompt"] == "a {}"
    assert metadata["parity"]["n_same_label"] == metadata["parity"]["n_images"] > 0
    labels.write_text("cat\ndog\n7\n")
    with pytest.raises(ResumeError, match=r"differs from this one in .*labels_sha256"):
        go(shards, folder, **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"task": "embed_text"}, "--task embed_text: say which column"),
        ({"task": "classify", "text_column": "caption"}, "--text_column: is for --task embed or embed_text"),
        ({"labels": "a,b"}, "--labels: is for --task classify"),
        ({"task": "classify", "labels": "a,b,a"}, "--labels: 'a' is there twice"),
        ({"task": "classify", "labels": " , "}, "names no label"),
        ({"task": "classify", "labels": "no.txt"}, "--labels no.txt: there is no such file"),
        ({"text_column": "words"}, "takes a column 'words'"),
        ({"text_column": "caption", "model_directory": None}, "--text_column: the embedded model knows no"),
        ({"task": "embed_text", "text_column": "jpg"}, "takes a column 'jpg'|--text_column jpg: holds bytes"),
    ],
)
def test_what_does_not_go_together_is_told(go, captioned, clip, options, text):
    with pytest.raises((ConfigError, ModelError), match=text):
        go(captioned, options.pop("model_directory", clip[0]), **options)
