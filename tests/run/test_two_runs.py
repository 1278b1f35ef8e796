"""Two runs on one output folder: the second stops, and takes over once the first is dead."""

import shutil

import pytest

from spark_embed import pipeline
from spark_embed.config import Config
from spark_embed.errors import ResumeError
from spark_embed.output.folder import Output
from spark_embed.output.publish import publish
from spark_embed.output.state import read_ledger, write_ledger
from spark_embed.run import begin, dry_run
from spark_embed.run.binding import make_binding

from support.crashes import OPTIONS, Folder
from support.locks import write_lock


@pytest.mark.slow
def test_a_second_run_stops_and_after_a_kill_the_same_command_goes_on_and_another_is_refused(
    start, command_here, go_on_here, stamped, tmp_path, uninterrupted
):
    out = Folder(tmp_path / "out")
    first = start(out.root, row_s=0.02)
    first.await_(lambda: len(first.images()) > 50, "50 images")
    second = start(out.root)
    assert second.wait() == 6, second.said
    assert "another run holds it: host " in second.last_line
    assert f"pid {first.process.pid}, since " in second.last_line
    assert "found" not in second.said  # it has not even looked at the input
    assert not second.images()
    first.await_(out.markers, "a complete wave")  # the first has not noticed
    complete = out.complete()
    first.kill()
    assert complete
    assert out.plant_strays()  # at once, as the JVM that is still dying might
    third = start(out.root)
    assert third.wait() == 0, third.said
    assert "taken over from a run that ended without letting go of it: host " in third.said
    assert f"pid {first.process.pid}, " in third.said
    out.assert_same(uninterrupted)
    out.assert_tidy()
    images = third.images()
    assert len(set(images)) == len(images)
    assert not complete & set(images)
    assert "nothing to do: all 12 shards are complete" in go_on_here(out)
    assert command_here.printed == third.printed
    paths = ("--input_dir", stamped, "--output_dir", out.root)
    code, said = command_here(
        *paths, *(f"--{name}={value}" for name, value in OPTIONS.items()), "--max_samples", 3
    )
    assert code == 6
    assert "(--max_samples): all -> first 3. Start anew with --overwrite, or" in said.splitlines()[-1]
    assert command_here.printed == ""


def test_a_run_that_was_taken_over_in_its_preflight_deletes_nothing(embed, shards, tmp_path, monkeypatch):
    """What another has made since is no leftover, though nothing that it has read speaks of it."""
    shutil.copytree(shards, tmp_path / "in")
    (tmp_path / "in/00002.parquet").rename(tmp_path / "later.parquet")
    embed(tmp_path / "in")
    (tmp_path / "later.parquet").rename(tmp_path / "in/00002.parquet")
    state = embed.output_dir / "_spark_embed"
    of_the_other = [embed.output_dir / "embeddings.parquet/other.parquet", state / "waves/00007-b/a.parquet"]
    before = (state / "run.json").read_text()

    def taken_over(*args):
        binding = make_binding(*args)
        write_lock(str(state / "lock.json"), host="node-7", pid=4711)
        for path in of_the_other:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"rows")
        return binding

    monkeypatch.setattr(begin, "make_binding", taken_over)
    with pytest.raises(ResumeError, match="another run has taken it over: host node-7, pid 4711"):
        embed(tmp_path / "in")
    assert all(path.exists() for path in of_the_other)
    assert (state / "run.json").read_text() == before


def test_a_run_that_another_overtakes_while_it_publishes_leaves_the_other_s_list(embed, shards, monkeypatch):
    """It held the lock when it looked, a moment ago; a machine may sleep between any two steps."""
    out = embed.output_dir
    other = out / "embeddings.parquet/other.parquet"

    def overtaken(output, ledger, replaced):
        write_ledger(output, ledger.model_copy(update={"run_id": "of-the-other"}), replaced)
        other.write_bytes(b"rows")
        write_ledger(output, ledger, replaced)

    monkeypatch.setattr(publish, "write_ledger", overtaken)
    with pytest.raises(ResumeError, match="another run has published meanwhile"):
        embed(shards)
    assert read_ledger(Output(str(out))).run_id == "of-the-other"
    assert other.exists()


@pytest.mark.crash
def test_of_two_that_start_at_once_on_a_new_folder_one_does_all(start, tmp_path, uninterrupted):
    out = Folder(tmp_path / "out")
    # Both have seen that there is no such folder before either makes it.
    runs = [start(out.root, hold="spark_embed.pipeline OutputLock lock.json 1") for _ in range(2)]
    for run in runs:
        run.await_hold()
    for run in runs:
        run.go_on()
    codes = [run.wait() for run in runs]
    assert sorted(codes) == [0, 6], [run.said for run in runs]
    loser = runs[codes.index(6)]
    assert "another run holds it" in loser.last_line
    assert not loser.images()
    out.assert_same(uninterrupted)
    out.assert_tidy()


def test_a_dry_run_leaves_a_run_alone_that_begins_meanwhile(spark, stamped, tiny_clip, tmp_path, monkeypatch):
    out = tmp_path / "out"
    config = Config(
        input_dir=str(stamped), output_dir=str(out), model_directory=str(tiny_clip), parity_samples=0
    )
    summaries = []

    def while_it_plans(*args):
        summaries.append(pipeline.run(spark, config))
        return make_binding(*args)

    monkeypatch.setattr(dry_run, "make_binding", while_it_plans)
    dry_run.describe_run(spark, config)
    assert summaries[0].counts.rows == 600
    assert pipeline.run(spark, config).counts == summaries[0].counts
    Folder(out).assert_tidy()
