"""--output_files 1: one file of each kind, whole or not there, which no later run changes."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from spark_embed import pipeline
from spark_embed.config import Config
from spark_embed.errors import BadShardsError, ConfigError, ResumeError
from spark_embed.load_config import load_config
from spark_embed.output.folder import Output
from spark_embed.output.resume import find_run_state, tidy
from spark_embed.output.state import read_ledger
from spark_embed.output.verify import verify
from spark_embed.pipeline import run
from spark_embed.run import wave_job, waves
from spark_embed.run.dry_run import describe_run
from spark_embed.run.publisher import Publisher
from spark_embed.storage import local

from support.crashes import Folder
from support.moments import Moments
from support.verified import findings

KINDS = ("embeddings.parquet", "errors.parquet")
FOLDERS, ONE = {}, {"output_files": 1}


@pytest.fixture(scope="module")
def made(spark, tiny_clip, shards, tmp_path_factory):
    """One output of each shape over the shards, their waves of a few rows; to be copied."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waves._Loop, "_wave_rows", lambda loop: 6)
        for name, shape in (("folders", FOLDERS), ("one", ONE)):
            paths = {"input_dir": str(shards), "model_directory": str(tiny_clip)}
            # So small files that folders would be published again and again meanwhile.
            options = {"parity_samples": 0, "output_file_bytes": 1000}
            run(spark, Config(**paths, output_dir=str(root / name), **options, **shape))
    return root


@pytest.fixture
def place(made, shards, tmp_path, tiny_clip):
    """Copies of these and of their input, which a test may change, and a way to run over them."""

    class Place:
        root = Path(shutil.copytree(made, tmp_path / "made"))
        folder = Path(shutil.copytree(shards, tmp_path / "in"))
        one = root / "one"

        def config(self, out: Path, **options) -> Config:
            paths = {"input_dir": str(self.folder), "model_directory": str(tiny_clip)}
            return Config(**paths, output_dir=str(out), parity_samples=0, **options)

        def run(self, spark, out: Path, **options):
            return run(spark, self.config(out, **options))

    return Place()


def no_spark():
    """Nobody may ask for a session."""
    raise AssertionError


def everything(root: Path) -> dict[str, bytes]:
    """What a run may not touch if it has nothing to do."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {
        str(path): path.read_bytes()
        for path in files
        if not path.name.startswith(("lock", "progress", "shards"))
    }


def assert_whole(out: Path, *, one: bool) -> None:
    """It is published in this shape, its rows are those of the shards, and nothing else is left."""
    assert [(out / kind).is_file() for kind in KINDS] == [one, one]
    verify(Output(str(out))).check()
    folder = Folder(out)
    folder.assert_tidy()
    assert (len(folder.vectors()), len(folder.errors())) == (24, 3)


def test_each_kind_is_one_file_that_anybody_reads_even_elsewhere(place, tmp_path):
    assert_whole(place.one, one=True)
    download = Path(shutil.copy(place.one / "embeddings.parquet", tmp_path / "download.parquet"))
    table, frame = pq.read_table(download), pd.read_parquet(download)
    folders = pd.read_parquet(place.root / "folders/embeddings.parquet")
    assert frame.columns.tolist() == folders.columns.tolist() == table.column_names
    keys = ["shard", "shard_row"]
    frame, folders = (one.sort_values(keys, ignore_index=True) for one in (frame, folders))
    pd.testing.assert_frame_equal(frame.drop(columns="embedding"), folders.drop(columns="embedding"))
    assert np.allclose(np.stack(frame["embedding"]), np.stack(folders["embedding"]), atol=1e-3)
    errors = pd.read_parquet(place.one / "errors.parquet")
    assert errors["error"].tolist() == ["null_bytes"] * 3
    ledger = read_ledger(Output(str(place.one)))
    assert ledger.generation == 0  # nothing of it was published early
    assert [file.name for file in (*ledger.results, *ledger.errors)] == list(KINDS)


def test_verify_sees_a_damaged_and_a_missing_file(place, capsys):
    output = Output(str(place.one))
    assert findings(output, capsys) == []
    path = place.one / "embeddings.parquet"
    data = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(pq.read_schema(path).get_field_index("embedding"))
    data[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    found = findings(output, capsys)
    assert any(text.startswith("files embeddings.parquet: cannot be read: ") for text in found)
    (place.one / "errors.parquet").unlink()
    assert "files errors.parquet: cannot be read: No such file or directory" in findings(output, capsys)


def test_a_run_that_finds_nothing_to_do_needs_no_spark_and_changes_nothing(place):
    before = everything(place.one)
    summary = place.run(no_spark, place.one, **ONE)
    assert summary.output.n_files == 1
    assert everything(place.one) == before


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda folder: None, FOLDERS, r"writes one file of each kind\. Go on with --output_files 1, start"),
        (
            lambda folder: shutil.copy(folder / "00000.parquet", folder / "new.parquet"),
            ONE,
            r"one file \(--output_files 1\), which cannot be added to .*, but 9 rows of the input are not in",
        ),
        (
            lambda folder: shutil.copy(folder / "00001.parquet", folder / "00000.parquet"),
            ONE,
            r"but 9 rows of the input are not in it; 1 shards have been replaced\. --overwrite starts anew; ",
        ),
        (
            lambda folder: (folder / "00000.parquet").unlink(),
            {**ONE, "prune": True},
            "but --prune takes away 1 shards. --overwrite",
        ),
        (
            lambda folder: None,
            {**ONE, "retry_errors": True},
            "but --retry_errors has 3 rows to embed once more",
        ),
    ],
)
def test_what_would_change_the_file_is_refused_before_any_work(place, change, options, message):
    before = everything(place.one)
    change(place.folder)
    for attempt in (run, describe_run):
        with pytest.raises(ResumeError, match=message):
            attempt(no_spark, place.config(place.one, **options))
        assert everything(place.one) == before


def test_a_data_set_of_folders_does_not_become_one_file_by_going_on(place):
    before = everything(place.root / "folders")
    with pytest.raises(ResumeError, match=r"writes folders of files\. Go on without --output_files, start"):
        place.run(no_spark, place.root / "folders", **ONE)
    assert everything(place.root / "folders") == before


def test_a_shard_that_is_gone_keeps_its_rows(place):
    (place.folder / "00000.parquet").unlink()
    summary = place.run(no_spark, place.one, **ONE)
    assert (summary.counts.rows, summary.pending.n_gone_shards) == (27, 1)


def test_an_image_that_was_refused_and_taken_away_again_is_in_nobodys_way(embed, tmp_path, photo_bytes):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(photo_bytes[number])
    given = {"parity_samples": 0, **ONE}
    embed(folder, **given)
    (folder / "new.jpg").write_bytes(photo_bytes[0])
    with pytest.raises(
        ResumeError, match="but 5 rows of the input are not in it; 1 shards have been replaced"
    ):
        embed(folder, **given)
    (folder / "new.jpg").unlink()
    _, embeddings, _ = embed(folder, **given)
    assert sorted(embeddings["image_id"]) == [f"{number}.jpg" for number in range(4)]
    (folder / "0.jpg").unlink()
    with pytest.raises(
        ResumeError, match="but 3 rows of the input are not in it; 1 shards have been replaced"
    ):
        embed(folder, **given)


def test_an_interrupted_run_goes_on_and_publishes_at_its_end(place, spark, tmp_path, monkeypatch):
    out = Folder(tmp_path / "out")
    original, begun = wave_job.run_wave, []

    def run_wave(embedded, folder):
        begun.append(folder)
        if len(begun) > 2:
            raise ZeroDivisionError
        return original(embedded, folder)

    monkeypatch.setattr(waves._Loop, "_wave_rows", lambda loop: 6)
    monkeypatch.setattr(waves, "_WAVES_AT_ONCE", 1)
    monkeypatch.setattr(wave_job, "run_wave", run_wave)
    with pytest.raises(ZeroDivisionError):
        place.run(spark, out.root, output_file_bytes=1000, **ONE)
    assert len(out.complete()) == 12
    assert [(out.root / kind).exists() for kind in KINDS] == [False, False]
    monkeypatch.setattr(wave_job, "run_wave", original)
    # Of this shard, 9 rows are complete.
    shutil.copy(place.folder / "00001.parquet", place.folder / "00000.parquet")
    summary = place.run(spark, out.root, output_file_bytes=1000, **ONE)
    assert summary.this_run.rows == 24  # of the other 12 it had 3 of a shard that has not changed
    assert_whole(out.root, one=True)


def test_the_file_waits_for_a_shard_that_cannot_be_read(place, spark, tmp_path):
    out, bad = tmp_path / "out", place.folder / "00001.parquet"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-100])
    with pytest.raises(BadShardsError, match=r"the one file .* waits for them; the first, 00001\.parquet"):
        place.run(spark, out, **ONE)
    assert not (out / "embeddings.parquet").exists()
    other = shutil.copytree(out, tmp_path / "other")
    bad.write_bytes(whole)
    place.run(spark, out, **ONE)
    assert_whole(out, one=True)

    bad.write_bytes(whole[:-100])  # and where that is wanted it does not wait
    summary = place.run(spark, other, fail_on_bad_shard=False, **ONE)
    assert (summary.status, summary.counts.rows) == ("incomplete", 18)
    assert place.run(no_spark, other, fail_on_bad_shard=False, **ONE).status == "incomplete"
    bad.write_bytes(whole)
    with pytest.raises(ResumeError, match="but 9 rows of the input are not in it"):
        place.run(no_spark, other, **ONE)


def test_the_flag_takes_a_one_and_nothing_else(tmp_path):
    paths = ["--input_dir", "in", "--output_dir", "out"]
    assert load_config([*paths, "--output_files", "1"], {}).output_files == 1
    assert load_config(paths, {}).output_files is None
    with pytest.raises(ConfigError, match=r"--output_files '2' .*must be 1"):
        load_config([*paths, "--output_files", "2"], {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"), [("folders", ONE), ("one", FOLDERS), ("one", ONE)], ids=["file", "folders", "anew"]
)
def test_a_run_that_starts_anew_may_die_at_any_moment_of_its_publishing(
    place, spark, tmp_path, monkeypatch, before, after
):
    """Then what was there is there again as soon as the next run looks, and that publishes what is new."""
    out, copies = place.root / before, tmp_path / "copies"
    old = Folder(Path(shutil.copytree(out, tmp_path / "old")))
    moments: list[str] = []
    finish = Publisher.finish

    def watched(publisher):
        with monkeypatch.context() as patch:
            names = ("replace", "rename", "link", "unlink")
            watch = (moments, out, copies, 2)
            patch.setattr(local, "os", Moments(local.os, names, *watch))
            patch.setattr(local, "shutil", Moments(local.shutil, ("rmtree",), *watch))
            return finish(publisher)

    monkeypatch.setattr(pipeline.Publisher, "finish", watched)
    place.run(spark, out, overwrite=True, normalize=False, **after)
    monkeypatch.undo()
    assert_whole(out, one=after == ONE)
    new = Folder(out)
    n_old = 0
    for number, moment in enumerate(moments):
        left = copies / str(number)
        ledger = read_ledger(Output(str(left)))
        is_old = ledger == read_ledger(Output(str(old.root)))
        n_old += is_old
        if before == "one" and after == ONE:  # a reader of a name always finds a whole file
            assert all(pq.read_table(left / kind).num_rows in (24, 3) for kind in KINDS), moment

        looked = Output(str(shutil.copytree(left, tmp_path / "looked" / str(number))))
        tidy(looked, find_run_state(looked, place.config(looked.root, normalize=False, **after)))
        found = verify(looked).text() if is_old else ""
        assert "files " not in found, f"{moment}: {found}"
        if is_old:
            Folder(Path(looked.root)).assert_same(old)

        place.run(spark, left, normalize=False, **after)
        assert_whole(left, one=after == ONE)
        Folder(left).assert_same(new)
    assert 3 <= n_old < len(moments)


def test_a_file_that_nobody_lists_gives_way(place, spark, tmp_path):
    """A first run was cut off before its list was there; then somebody wants the other shape."""
    for name, after in (("one", FOLDERS), ("folders", ONE)):
        out = place.root / name
        (out / "_spark_embed/files.json").unlink()
        place.run(spark, out, overwrite=True, **after)
        assert_whole(out, one=after == ONE)
