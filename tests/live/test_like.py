"""The same vectors from the batch job and from the service, in the same precision; no other model."""

import json
import shutil
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from spark_embed.errors import ConfigError, ModelError
from spark_embed.live.like import wanted_like, wanted_model
from spark_embed.live.model import LiveModel
from spark_embed.service.realtime.load_settings import load_settings

from support.image_files import encode
from support.small_models import save_model


@pytest.fixture(scope="module")
def run_with(spark, tiny_clip, shards, tmp_path_factory):
    """Run a folder through a model; each set of options once. Returns the output folder."""
    from spark_embed.config import Config
    from spark_embed.pipeline import run

    folders = {}

    def run_with(input_dir=shards, **options):
        key = str((input_dir, options))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("runs") / "out"
            given = {"model_directory": str(tiny_clip), "parity_min_cosine": 0.9, **options}
            run(spark, Config(input_dir=str(input_dir), output_dir=str(folders[key]), **given))
        return folders[key]

    return run_with


def images_of(shards) -> dict[tuple[str, int], bytes]:
    return {
        (path.name, row): data
        for path in sorted(shards.glob("*.parquet"))
        for row, data in enumerate(pq.read_table(path, columns=["jpg"])["jpg"].to_pylist())
        if data is not None
    }


def live_like(folder, *argv) -> LiveModel:
    settings = load_settings(["--like", str(folder), *argv], {})
    return LiveModel(wanted_like(str(folder), settings.given_options(), settings.model.device))


def ready(live, data, text=None):
    """Return what the device takes of an image."""
    return live.prepare(data, text, lambda n_bytes: nullcontext()).prepared


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.999999), ("bfloat16", 0.999)])
def test_a_vector_of_the_service_is_that_of_the_run(run_with, shards, dtype, least):
    folder = run_with(dtype=dtype)
    live = live_like(folder)
    assert live.about["dtype"] == dtype
    table = pd.read_parquet(folder / "embeddings.parquet")
    expected = {(row.shard, row.shard_row): np.asarray(row.embedding) for row in table.itertuples()}
    images = images_of(shards)
    assert expected.keys() == images.keys()
    items = [ready(live, data) for data in images.values()]
    batches = [items[:1], items[1:8], items[8:]]  # other batches than the job's
    answers = [answer for batch in batches for answer in live.predict(batch)]
    for key, answer in zip(images, answers, strict=True):
        vector = answer.values["embedding"]
        assert vector @ expected[key] >= least
        if dtype == "float32":
            assert np.abs(vector - expected[key]).max() <= 1e-5


def test_the_model_may_lie_elsewhere_but_must_be_the_same(run_with, tiny_clip, tmp_path):
    folder = run_with(dtype="float32")
    moved = shutil.copytree(tiny_clip, tmp_path / "moved")
    there = live_like(folder, "--model_directory", str(moved))
    assert there.about["source"] == str(moved)
    other = tmp_path / "other"
    save_model("clip", other)
    with pytest.raises(ModelError, match="weights"):
        live_like(folder, "--model_directory", str(other))
    with pytest.raises(ModelError, match=r"--like .*differs from the run's in normalized: true -> false"):
        live_like(folder, "--normalize", "false")


def test_what_is_no_run_is_refused_in_one_line(run_with, tmp_path):
    folder = run_with(dtype="float32")
    with pytest.raises(ConfigError, match=r"--like .*: holds no run"):
        live_like(tmp_path)
    old = shutil.copytree(folder, tmp_path / "old")
    record = json.loads((old / "_spark_embed/run.json").read_text())
    record["fingerprint"]["embedding_version"] = 0
    (old / "_spark_embed/run.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="another version of spark_embed"):
        live_like(old)


def test_without_a_run_auto_is_float32(tiny_clip):
    settings = load_settings(["--model_directory", str(tiny_clip), "--dtype", "auto"], {})
    assert wanted_model(settings.model_options(), "cpu").recipe.dtype == "float32"


def test_photos_are_as_plain_transformers_has_them(material):
    folder = material / "img2dataset"
    expected = pd.read_parquet(folder / "expected-clip-tiny.parquet").set_index("key")["embedding"]
    rows = pd.read_parquet(folder / "parquet/00000.parquet").dropna(subset="jpg").head(50)
    settings = load_settings(["--model_directory", str(material / "clip-tiny")], {})
    live = LiveModel(wanted_model(settings.model_options(), "cpu"))
    answers = live.predict([ready(live, data) for data in rows["jpg"]])
    cosines = [
        answer.values["embedding"] @ expected[key] for key, answer in zip(rows["key"], answers, strict=True)
    ]
    assert len(cosines) == 50
    assert min(cosines) >= 0.99999


def test_labels_of_a_run_are_given_by_the_service(run_with, shards, material):
    options = {"model_directory": str(material / "clip-tiny"), "task": "classify", "labels": "a cat,a rocket"}
    folder = run_with(**options, dtype="float32", top_k=2)
    live = live_like(folder)
    table = pd.read_parquet(folder / "predictions.parquet").set_index(["shard", "shard_row"])
    images = images_of(shards)
    answers = live.predict([ready(live, data) for data in images.values()])
    for key, answer in zip(images, answers, strict=True):
        expected = table.loc[key]
        assert answer.values["label"] == expected["label"]
        assert answer.values["top_labels"] == list(expected["top_labels"])
        assert answer.values["score"] == pytest.approx(expected["score"], abs=1e-5)
    with pytest.raises(ModelError, match="differs from the run's"):
        live_like(folder, "--labels", "a dog,a rocket")


def test_how_a_run_decodes_is_how_the_service_does(run_with, photos, tmp_path):
    """Large JPEGs at a smaller scale, and the limit of pixels."""
    (tmp_path / "in").mkdir()
    for number, photo in enumerate(photos[:3]):
        (tmp_path / f"in/{number}.jpg").write_bytes(encode(photo.resize((1600, 1200)), quality=90))
    folder = run_with(tmp_path / "in", dtype="float32", max_pixels=2_000_000, jpeg_scaling="auto")
    table = pd.read_parquet(folder / "embeddings.parquet").set_index("image_id")
    live, whole = live_like(folder), live_like(folder)
    assert live.about["jpeg_scaling"]
    for name, row in table.iterrows():
        data = (tmp_path / "in" / name).read_bytes()
        (answer,) = live.predict([ready(live, data)])
        assert np.abs(answer.values["embedding"] - row["embedding"]).max() <= 1e-5
    large = encode(photos[0].resize((2000, 1200)))
    assert whole.prepare(large, None, lambda n: nullcontext()).error.code == "too_many_pixels"


def test_several_models_of_a_run_are_those_of_the_service(run_with, tiny_clip, clip_folder, shards):
    folder = run_with(model_directory=f"{tiny_clip},{clip_folder}", dtype="float32")
    live = live_like(folder)
    table = pd.read_parquet(folder / "embeddings.parquet").set_index(["shard", "shard_row"])
    key, data = next(iter(images_of(shards).items()))
    (answer,) = live.predict([ready(live, data)])
    assert len(live.vectors) == 2
    for column in live.vectors:
        assert np.abs(answer.values[column] - table.loc[key][column]).max() <= 1e-5


def test_a_record_is_not_trusted_with_code(run_with, tmp_path):
    folder = shutil.copytree(run_with(dtype="float32"), tmp_path / "out")
    record = json.loads((folder / "_spark_embed/run.json").read_text())
    record["options"]["trust_remote_code"] = record["options"]["allow_pickle_weights"] = True
    (folder / "_spark_embed/run.json").write_text(json.dumps(record))
    wanted = wanted_like(str(folder), {}, "auto")
    assert not wanted.recipe.trust_remote_code
    assert not wanted.recipe.allow_pickle_weights
