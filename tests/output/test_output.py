"""What keeps an output folder safe: of others, of an older run, and of a run that goes wrong."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from spark_embed.errors import ConfigError, ModelError, ResumeError, StorageError
from spark_embed.output.publish import staging
from spark_embed.output.publish.merge import merge_files
from spark_embed.run import wave_job
from spark_embed.run.wave import run_wave


def contents(folder):
    """Every file below a folder, by path, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def published(folder):
    """What readers of an output folder rely on."""
    files = contents(folder)
    return {path: data for path, data in files.items() if not path.startswith("_spark_embed/")} | {
        path: files[path] for path in ("_spark_embed/files.json",)
    }


def test_another_number_of_rows_is_refused_until_it_says_overwrite(embed, shards):
    _, first, _ = embed(shards, max_samples=3)
    before = contents(embed.output_dir)
    for wanted, shown in ((None, "all"), (4, "first 4")):
        text = rf"--output_dir .*/out: .*\(--max_samples\): first 3 -> {shown}\. .*--overwrite"
        with pytest.raises(ResumeError, match=text):
            embed(shards, max_samples=wanted)
        assert contents(embed.output_dir) == before
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
    catalogue = tmp_path / "out/_spark_embed/shards.parquet"
    assert list((tmp_path / "out/_spark_embed").rglob("*.parquet")) == [catalogue]
    assert (tmp_path / "out/_spark_embed/run.json").exists()
    smaller, table, _ = embed(shards, output_file_bytes="4KiB", overwrite=True)
    assert len(table) == 24
    assert smaller["output"]["n_files"] >= 3
    assert len(list((tmp_path / "out/embeddings.parquet").iterdir())) == smaller["output"]["n_files"]
    assert list((tmp_path / "out/_spark_embed").rglob("*.parquet")) == [catalogue]
    assert smaller["output"]["n_bytes"] / smaller["output"]["n_files"] < 8 << 10


@pytest.fixture
def lost(monkeypatch) -> list[pd.DataFrame]:
    """The first wave loses one of its files when it has ended: this one."""
    tables = []

    def run_and_lose_a_file(embedded, folder):
        run_wave(embedded, folder)
        if not tables:
            path = min(Path(folder).glob("*.parquet"))
            tables.append(pd.read_parquet(path, columns=["shard", "shard_row"]))
            path.unlink()

    monkeypatch.setattr(wave_job, "run_wave", run_and_lose_a_file)
    return tables


def test_rows_that_a_wave_loses_are_noticed_and_their_shards_done_again(embed, shards, lost):
    metadata, embeddings, errors = embed(shards)
    missing = lost[0]["shard"].value_counts().to_dict()
    assert 0 < len(missing) < 3
    assert metadata["status"] == "incomplete"
    assert metadata["pending"]["bad_shards"] == {
        name: f"9 rows planned, {9 - n_lost} found: it changed during the run"
        for name, n_lost in missing.items()
    }
    there = pd.concat([embeddings, errors])["shard"].value_counts().to_dict()
    assert there == {f"0000{n}.parquet": 9 for n in range(3) if f"0000{n}.parquet" not in missing}
    metadata, embeddings, _ = embed(shards)
    assert (metadata["status"], metadata["this_run"]["rows"]) == ("complete", 9 * len(missing))
    assert len(embeddings) == 24


def test_rows_that_publishing_loses_are_noticed_and_the_older_run_stays(embed, shards, monkeypatch):
    """And the waves stay complete: a later run only publishes them."""
    embed(shards, max_samples=5)
    before = published(embed.output_dir)

    def merge_and_lose_a_row(merge):
        answer = merge_files(merge)
        answer["results"][0]["n_rows"] -= 1
        return answer

    monkeypatch.setattr(staging, "merge_files", merge_and_lose_a_row)
    with pytest.raises(
        StorageError, match=r"27 rows in complete waves.* 26 would be .* nothing was published"
    ):
        embed(shards, overwrite=True)
    assert published(embed.output_dir) == before
    monkeypatch.undo()
    metadata, embeddings, _ = embed(shards)
    assert (metadata["status"], metadata["this_run"]["rows"]) == ("complete", 0)
    assert len(embeddings) == 24


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda out, shards: shards / "inside", "inside --input_dir"),
        (lambda out, shards: shards, "inside --input_dir"),
        (lambda out, shards: (out.touch(), out)[-1], "is a file; name a folder"),
        (lambda out, shards: (out.touch(), out / "x/y")[-1], "out is a file; name a folder"),
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


def test_an_output_folder_around_the_input_is_refused(embed, tmp_path, shards):
    shutil.copytree(shards, tmp_path / "data/in")
    with pytest.raises(ConfigError, match="lies inside it"):
        embed(tmp_path / "data/in", output_dir=str(tmp_path / "data"))


def test_a_model_that_cannot_be_used_leaves_nothing_behind(embed, shards, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        embed(shards, model_directory=str(tmp_path / "empty"))
    assert not (tmp_path / "out").exists()
