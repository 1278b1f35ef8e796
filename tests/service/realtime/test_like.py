"""The same vectors from the batch job and from the service, in the same precision; no other model."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from spark_embed.errors import ConfigError, ModelError
from spark_embed.service.realtime.like import wanted_like, wanted_model
from spark_embed.service.realtime.live_model import LiveModel
from spark_embed.service.realtime.load_settings import load_settings

from support.small_models import save_model


@pytest.fixture(scope="module")
def runs(spark, tiny_clip, shards, tmp_path_factory):
    """Output folders of two runs over the same shards, in float32 and in bfloat16."""
    from spark_embed.config import Config
    from spark_embed.pipeline import run

    folders = {}
    for dtype in ("float32", "bfloat16"):
        folders[dtype] = tmp_path_factory.mktemp("runs") / dtype
        options = {"model_directory": str(tiny_clip), "dtype": dtype, "parity_min_cosine": 0.9}
        run(spark, Config(input_dir=str(shards), output_dir=str(folders[dtype]), **options))
    return folders


def images_of(shards) -> dict[tuple[str, int], bytes]:
    return {
        (path.name, row): data
        for path in sorted(shards.glob("*.parquet"))
        for row, data in enumerate(pq.read_table(path, columns=["jpg"])["jpg"].to_pylist())
        if data is not None
    }


def live_like(folder, *argv) -> LiveModel:
    return LiveModel(wanted_like(str(folder), load_settings(["--like", str(folder), *argv], {})))


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.999999), ("bfloat16", 0.999)])
def test_a_vector_of_the_service_is_that_of_the_run(runs, shards, dtype, least):
    live = live_like(runs[dtype])
    assert live.about["dtype"] == dtype
    table = pd.read_parquet(runs[dtype] / "embeddings.parquet")
    expected = {(row.shard, row.shard_row): np.asarray(row.embedding) for row in table.itertuples()}
    images = images_of(shards)
    assert expected.keys() == images.keys()
    items = [live.prepare(data, None) for data in images.values()]
    batches = [items[:1], items[1:8], items[8:]]  # other batches than the job's
    answers = [answer for batch in batches for answer in live.predict(batch)]
    for key, answer in zip(images, answers, strict=True):
        vector = answer.values["embedding"]
        assert vector @ expected[key] >= least
        if dtype == "float32":
            assert np.abs(vector - expected[key]).max() <= 1e-5


def test_the_model_may_lie_elsewhere_but_must_be_the_same(runs, tiny_clip, tmp_path):
    moved = shutil.copytree(tiny_clip, tmp_path / "moved")
    there = live_like(runs["float32"], "--model_directory", str(moved))
    assert there.about["source"] == str(moved)
    other = tmp_path / "other"
    save_model("clip", other)
    with pytest.raises(ModelError, match="weights"):
        live_like(runs["float32"], "--model_directory", str(other))
    with pytest.raises(ModelError, match=r"--like .*differs from the run's in normalized: true -> false"):
        live_like(runs["float32"], "--normalize", "false")


def test_what_is_no_run_is_refused_in_one_line(runs, tmp_path):
    with pytest.raises(ConfigError, match=r"--like .*: holds no run"):
        live_like(tmp_path)
    old = shutil.copytree(runs["float32"], tmp_path / "old")
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
    answers = live.predict([live.prepare(data, None) for data in rows["jpg"]])
    cosines = [
        answer.values["embedding"] @ expected[key] for key, answer in zip(rows["key"], answers, strict=True)
    ]
    assert len(cosines) == 50
    assert min(cosines) >= 0.99999
