"""The files under _spark_embed: whole or not at all; what is broken, or not ours, is said and left."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_embed.errors import ResumeError, SparkEmbedError
from spark_embed.output.folder import Output
from spark_embed.output.records import Counted, Ledger, Marker, Part, ShardState
from spark_embed.output.state import (
    is_whole,
    joined,
    read_ledger,
    read_markers,
    read_run,
    with_parts,
    write_ledger,
    write_marker,
)

COUNTED = Counted(
    n_rows=2, n_errors_by_code={"corrupt": 1}, n_tasks=1, n_model_loads=1, stage_s={}, batch_limit=None
)


def marker(name="00000-aa", **values):
    """A marker of two rows."""
    units = (Part("a.parquet", "1-2", 0, 2),)
    given = {"run_id": "r", "wave": name, "units": units, "files": {"x.parquet": 3}, "counted": COUNTED}
    return Marker(**{**given, "embed_s": 1.0, "finished_at": "now", **values})


def ledger(generation, run_id="r"):
    """A list of no files."""
    return Ledger(run_id=run_id, generation=generation, updated_at="now", shards={}, results=(), errors=())


@pytest.fixture
def output(tmp_path):
    """An output folder."""
    return Output(str(tmp_path / "out"))


def test_a_marker_is_read_as_it_was_written(output):
    write_marker(output, marker())
    assert read_markers(output) == [marker()]


@pytest.mark.parametrize(
    "broken", ["", "{", "[]", "null", '{"product": "another"}', '{"format": 2}', "\x00" * 9]
)
@pytest.mark.parametrize("name", ["run.json", "files.json", "markers/00000-aa.json"])
def test_a_broken_or_foreign_file_stops_the_run_and_is_left_as_it_is(embed, shards, name, broken):
    """Before a model is looked at, so that these runs are cheap."""
    out = embed.output_dir
    state = out / "_spark_embed"
    (state / "markers").mkdir(parents=True)
    if name != "run.json":
        _write_run_record(state, embed, shards)
    path = state / name
    path.write_text(broken)
    with pytest.raises(SparkEmbedError, match=path.name) as caught:
        embed(shards)
    assert caught.value.exit_code in (4, 6)
    assert path.read_text() == broken


def _write_run_record(state, embed, shards):
    record = {
        "product": "spark_embed", "format": 1, "run_id": "r", "started_at": "", "options": {},
        "fingerprint": {"rows": "all"}, "table_schema": {}, "model": {}, "parity": {}, "versions": {},
    }  # fmt: skip
    (state / "run.json").write_text(json.dumps(record))


def test_a_broken_record_or_catalogue_of_a_finished_run_is_told_with_the_cure(embed, shards):
    embed(shards)
    for name, cure in (("metadata.json", "written anew"), ("_spark_embed/shards.parquet", "read anew")):
        path = embed.output_dir / name
        whole = path.read_bytes()
        path.write_bytes(b'{"status": 1}')
        with pytest.raises(ResumeError, match=f"{path.name}: is broken.*{cure}"):
            embed(shards)
        assert path.read_bytes() == b'{"status": 1}'
        path.unlink()
        embed(shards)  # the cure
        assert path.exists()
        path.write_bytes(whole)


def test_no_state_is_no_state(output):
    assert (read_run(output), read_ledger(output), read_markers(output)) == (None, None, [])


def test_a_list_that_another_run_has_replaced_meanwhile_stays(output):
    first = ledger(0)
    write_ledger(output, first, None)
    write_ledger(output, ledger(1), first)
    for late in (first, None, ledger(1, run_id="another")):
        with pytest.raises(ResumeError, match=r"files\.json: another run has published meanwhile"):
            write_ledger(output, ledger(2), late)
    assert read_ledger(output) == ledger(1)


def test_a_list_that_is_broken_keeps_nobody_from_writing_another(output, tmp_path):
    write_ledger(output, ledger(0), None)
    Path(output.ledger).write_text("{")
    write_ledger(output, ledger(1), None)
    assert read_ledger(output) == ledger(1)


def test_a_wave_without_its_data_is_not_whole(output, tmp_path):
    folder = tmp_path / "out/_spark_embed/waves/00000-aa"
    assert not is_whole(output, marker())
    folder.mkdir(parents=True)
    (folder / "x.parquet").write_bytes(b"12")
    assert not is_whole(output, marker())
    (folder / "x.parquet").write_bytes(b"123")
    assert is_whole(output, marker())


@given(st.sets(st.integers(0, 30)), st.randoms())
def test_ranges_are_joined_in_any_order(rows, random):
    singles = [(row, 1) for row in rows]
    random.shuffle(singles)
    found = joined(singles)
    assert {row for first, number in found for row in range(first, first + number)} == rows
    assert all(first + number < other for (first, number), (other, _) in pairwise(found))


def test_rows_cannot_be_there_twice():
    with pytest.raises(ValueError, match="twice"):
        joined([(0, 5), (4, 2)])


def test_parts_of_another_content_take_the_place_of_the_old_ones():
    states = {"a": ShardState("old", ((0, 5),)), "b": ShardState("same", ((0, 5),))}
    parts = [Part("a", "new", 0, 2), Part("b", "same", 5, 5), Part("c", "first", 3, 4)]
    assert with_parts(states, parts) == {
        "a": ShardState("new", ((0, 2),)),
        "b": ShardState("same", ((0, 10),)),
        "c": ShardState("first", ((3, 4),)),
    }
