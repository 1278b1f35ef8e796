"""What keeps an output folder safe: of others, of an older run, and of a run that goes wrong."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed import pipeline
from spark_embed.errors import ConfigError, ModelError, StorageError
from spark_embed.wave import run_wave


def test_a_second_run_is_refused_until_it_says_overwrite(embed, shards):
    _, first, _ = embed(shards, max_samples=3)
    with pytest.raises(ConfigError, match="finished run; replace it with --overwrite"):
        embed(shards)
    _, second, _ = embed(shards, overwrite=True)
    assert (len(first), len(second)) == (3, 24)


@pytest.mark.parametrize("left", [[], ["run.json.4711.tmp"]])
def test_a_run_that_was_killed_before_its_first_file_is_in_nobodys_way(embed, shards, tmp_path, left):
    (tmp_path / "out/_spark_embed").mkdir(parents=True)
    for name in left:
        (tmp_path / "out/_spark_embed" / name).touch()
    _, embeddings, _ = embed(shards)
    assert len(embeddings) == 24


def test_output_files_have_the_wanted_size_and_no_vector_is_stored_twice(embed, shards, tmp_path):
    metadata, _, _ = embed(shards)
    assert (
        metadata["output"]["n_files"]
        == len(list((tmp_path / "out/embeddings.parquet").glob("*.parquet")))
        == 1
    )
    assert not list((tmp_path / "out/_spark_embed").rglob("*.parquet"))
    assert (tmp_path / "out/_spark_embed/run.json").exists()
    smaller, table, _ = embed(shards, output_file_bytes="4KiB", overwrite=True)
    assert len(table) == 24
    assert smaller["output"]["n_files"] >= 3
    assert smaller["output"]["n_bytes"] / smaller["output"]["n_files"] < 8 << 10


def test_rows_that_go_missing_are_noticed_and_the_older_run_stays(embed, shards, monkeypatch):
    _, before, _ = embed(shards, max_samples=5)

    def run_and_lose_a_file(embedded, folder):
        run_wave(embedded, folder)
        next(Path(folder).glob("*.parquet")).unlink()

    monkeypatch.setattr(pipeline, "run_wave", run_and_lose_a_file)
    with pytest.raises(StorageError, match=r"27 rows in, but .* nothing was published"):
        embed(shards, overwrite=True)
    after = pd.read_parquet(embed.output_dir / "embeddings.parquet")
    assert after["image_id"].tolist() == before["image_id"].tolist()
    assert json.loads((embed.output_dir / "metadata.json").read_text())["counts"]["rows"] == 5
    monkeypatch.undo()
    _, embeddings, _ = embed(shards, overwrite=True)
    assert len(embeddings) == 24


def test_a_shard_that_changes_during_the_run_stops_it(embed, shards, tmp_path, monkeypatch, photo_bytes):
    shutil.copytree(shards, tmp_path / "in")

    def change_then_run(embedded, folder):
        pq.write_table(pa.table({"key": ["x"], "jpg": photo_bytes[:1]}), tmp_path / "in/00001.parquet")
        return run_wave(embedded, folder)

    monkeypatch.setattr(pipeline, "run_wave", change_then_run)
    with pytest.raises(Exception, match="changed while it was being read"):
        embed(tmp_path / "in")
    assert not (tmp_path / "out/embeddings.parquet").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda out, shards: shards / "inside", "inside --input_dir"),
        (lambda out, shards: shards, "inside --input_dir"),
        (lambda out, shards: (out.mkdir(), (out / "thesis.txt").touch(), out)[-1], "not ours"),
        (lambda out, shards: (out.mkdir(), (out / "metadata.json").touch(), out)[-1], "choose another"),
        (lambda out, shards: ((out / "_spark_embed/thesis").mkdir(parents=True), out)[-1], "choose another"),
    ],
)
def test_an_output_folder_that_is_not_ours_is_left_alone(embed, shards, tmp_path, make, message):
    folder = make(tmp_path / "out", shards)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=message):
        embed(shards, output_dir=str(folder), overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_path_below_a_file_is_refused(embed, shards, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"--output_dir|file/out: cannot be listed"):
        embed(shards, output_dir=str(tmp_path / "file/out"))


def test_an_output_folder_around_the_input_is_refused(embed, tmp_path, shards):
    shutil.copytree(shards, tmp_path / "data/in")
    with pytest.raises(ConfigError, match="lies inside it"):
        embed(tmp_path / "data/in", output_dir=str(tmp_path / "data"))


def test_a_model_that_cannot_be_used_leaves_nothing_behind(embed, shards, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        embed(shards, model_directory=str(tmp_path / "empty"))
    assert not (tmp_path / "out").exists()
