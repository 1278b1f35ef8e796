"""`spark-embed verify` finds whatever is wrong with a published data set, and nothing where nothing is."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st
from output_files import (
    DIM,
    fingerprint,
    list_anew,
    make_output,
    make_progress,
    make_run,
    make_wave,
    publish,
    rewrite,
    shard_keys,
    states_of,
    vectors_table,
    write_summary,
    write_table,
)

import spark_embed.verify as verify_room
from spark_embed.cli import main
from spark_embed.lock import OutputLock
from spark_embed.output import Output
from spark_embed.records import Part, ShardState
from spark_embed.state import read_ledger, write_ledger
from spark_embed.verify import verify
from spark_embed.verify.lookup import look_up
from spark_embed.verify.shard_rows import ShardRows
from spark_embed.verify.sums import mix, sum_of_range

FIRST = "embeddings.parquet/part-00000.parquet"
SECOND = "embeddings.parquet/part-00001.parquet"
ERRORS = "errors.parquet/part-00000.parquet"


@pytest.fixture
def output(tmp_path) -> Output:
    return make_output(tmp_path / "out")


def findings(output: Output, capsys) -> list[str]:
    """Return what is found, by the command, without the notes; the exit code says the same."""
    code = main(["verify", output.root])
    told = capsys.readouterr()
    *lines, checked = told.out.splitlines()
    found = [" ".join(line.split(maxsplit=1)) for line in lines if not line.startswith("note ")]
    assert checked.startswith("checked  ")
    assert ("nothing is wrong" in checked) == (code == 0) == (not found)
    assert code in (0, 7)
    if code:
        (error,) = told.err.splitlines()
        assert f"ERROR   {output.root}: {len(found)} findings; " in error
    return found


def path_of(output: Output, name: str) -> Path:
    return Path(output.root, name)


def without(*positions: int):
    """Return a change that drops rows of a table."""
    return lambda table: table.filter(pa.array([i not in positions for i in range(len(table))]))


def with_column(name: str, change):
    """Return a change of a column's Python values."""

    def changed(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        values = change(table[name].to_pylist())
        return table.set_column(place, table.field(name), pa.array(values, table.field(name).type))

    return changed


def with_vector(position: int, vector: object):
    return with_column("embedding", lambda values: [*values[:position], vector, *values[position + 1 :]])


def test_a_good_data_set_is_good(output, capsys):
    assert main(["verify", output.root]) == 0
    told = capsys.readouterr()
    assert told.out == "checked  3 files, 14 rows with a vector, 3 without: nothing is wrong\n"
    assert told.err == ""


def test_a_data_set_without_a_row_is_good(tmp_path, capsys):
    output = Output(str(tmp_path))
    make_run(output)
    publish(output, [[]], {})
    assert findings(output, capsys) == []


# Rows.


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        (FIRST, without(2), "rows shard a.parquet: 9 of 10 rows are there: missing 2"),
        (FIRST, without(0, 1, 4), "rows shard a.parquet: 7 of 10 rows are there: missing 0-1, 6"),
        (ERRORS, without(2), "rows shard b.parquet: 6 of 7 rows are there: missing 0"),
        (
            FIRST,
            lambda table: pa.concat_tables([table, table.slice(5, 1)]),
            "rows shard a.parquet: 11 of 10 rows are there: there more than once 7",
        ),
        (
            FIRST,
            with_column("shard_row", lambda rows: [rows[1], *rows[1:]]),
            "rows shard a.parquet: 10 of 10 rows are there: missing 0; there more than once 1",
        ),
        (
            FIRST,
            with_column("shard_row", lambda rows: [3, *rows[1:]]),  # which is among the errors
            "rows shard a.parquet: 10 of 10 rows are there: missing 0; there more than once 3",
        ),
        (
            FIRST,
            with_column("shard_row", lambda rows: [10, *rows[1:-1], -3]),
            "rows shard a.parquet: 10 of 10 rows are there: missing 0, 8; not in files.json -3, 10",
        ),
    ],
)
def test_rows_that_are_not_there_once(output, capsys, name, change, text):
    rewrite(path_of(output, name), change)
    list_anew(output)
    assert findings(output, capsys) == [text]


def test_rows_of_a_shard_that_is_not_listed(output, capsys):
    rewrite(path_of(output, FIRST), with_column("shard", lambda names: ["c\n.parquet", *names[1:]]))
    list_anew(output)
    assert findings(output, capsys) == [
        "rows shard a.parquet: 9 of 10 rows are there: missing 0",
        "rows shard c?.parquet: 1 rows are there, and files.json has no such shard",
    ]


def test_rows_that_two_shards_have_swapped(output, capsys):
    """Sums over everything would not see it."""
    rewrite(path_of(output, SECOND), with_column("shard", lambda names: [swapped(name) for name in names]))
    list_anew(output)
    found = findings(output, capsys)
    assert [line.split(":")[0] for line in found] == ["rows shard b.parquet", "rows shard a.parquet"]


def swapped(name: str) -> str:
    return {"a.parquet": "b.parquet", "b.parquet": "a.parquet"}[name]


def test_rows_without_a_name(output, capsys):
    rewrite(path_of(output, FIRST), with_column("shard", lambda names: [None, *names[1:]]))
    rewrite(path_of(output, ERRORS), with_column("shard_row", lambda rows: [*rows[:-1], None]))
    list_anew(output)
    assert findings(output, capsys) == [
        f"vectors {FIRST}: 1 row without shard or shard_row: shard None, row 0",
        f"errors {ERRORS}: 1 row without shard or shard_row: shard b.parquet, row None",
        "rows shard b.parquet: 6 of 7 rows are there: missing 0",
        "rows shard a.parquet: 9 of 10 rows are there: missing 0",
    ]


def test_a_shard_of_which_a_part_is_done(tmp_path, capsys):
    output = Output(str(tmp_path))
    make_run(output)
    keys = [("s.parquet", row) for row in [*range(5, 9), *range(100, 103), 2**40]]
    publish(output, [keys], {})
    assert findings(output, capsys) == []
    rewrite(path_of(output, FIRST), without(1, 5, 7))
    list_anew(output)
    (found,) = findings(output, capsys)
    assert found.endswith("5 of 8 rows are there: missing 6, 101, 1099511627776")


def test_much_that_is_wrong_is_told_shortly(tmp_path, capsys):
    output = Output(str(tmp_path))
    make_run(output)
    shards = {f"{number:03d}": 12 for number in range(50)}
    publish(output, [shard_keys(shards)], {})
    odd = pc.bit_wise_and(pc.cast(pa.array(range(600)), pa.int64()), 1)
    rewrite(path_of(output, FIRST), lambda table: table.filter(pc.equal(odd, 1)))
    list_anew(output)
    main(["verify", output.root])
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert len(lines) == 22
    assert lines[0].endswith("shard 000: 6 of 12 rows are there: missing 0, 2, 4, 6, 8, ...")
    assert lines[20] == "rows     ... and 30 more like these"
    assert "50 findings" in lines[21]


KEYS = shard_keys({"a": 40, "b": 1, "c": 25})


def keys_batch(keys) -> pa.RecordBatch:
    shards = pa.array([shard for shard, _ in keys], pa.string())
    return pa.record_batch([shards, pa.array([row for _, row in keys], pa.int64())], ["shard", "shard_row"])


@given(
    data=st.data(),
    position=st.integers(0, len(KEYS) - 1),
    what=st.sampled_from(["dropped", "doubled", "renumbered", "moved"]),
)
@settings(deadline=None, max_examples=60)
def test_any_row_that_is_not_itself_is_found(data, position, what):
    keys = list(KEYS)
    shard, row = keys.pop(position)
    if what == "doubled":
        keys += [(shard, row)] * 2
    elif what == "renumbered":
        keys.append((shard, data.draw(st.integers(-(2**63), 2**63 - 1).filter(lambda other: other != row))))
    elif what == "moved":
        keys.append((data.draw(st.sampled_from("abcd").filter(lambda other: other != shard)), row))
    order = data.draw(st.permutations(keys))
    account = ShardRows(states_of(KEYS))
    for start in range(0, len(order), 20):
        account.add(keys_batch(order[start : start + 20]))
    found = [text for _, text in account.compare([])]
    assert any(text.startswith(f"shard {shard}: ") for text in found)
    whole = ShardRows(states_of(KEYS))
    for start in range(0, len(KEYS), 7):
        whole.add(keys_batch(KEYS[start : start + 7]))
    assert list(whole.compare([])) == []


def test_the_sum_of_a_range_is_that_of_its_rows():
    first, number = 3, (1 << 20) + 5
    rows = np.arange(first, first + number, dtype=np.int64)
    assert sum_of_range(first, number) == sum(map(int, mix(rows))) % 2**64
    assert sum_of_range(5, 0) == 0
    assert int(mix(np.array([0], np.int64))[0]) == 0xE220A8397B1DCDAF  # SplitMix64's first number, seed 0


def test_a_list_of_impossibly_many_rows_ends_at_once(output, capsys):
    list_anew(
        output, shards={"a.parquet": ShardState("1", ((0, 10**15),)), "b.parquet": ShardState("1", ((0, 7),))}
    )
    assert findings(output, capsys) == [
        "rows shard a.parquet: 10 of 1,000,000,000,000,000 rows are there: missing 10-33554431"
    ]


def test_rows_are_looked_for_in_windows(tmp_path, monkeypatch):
    monkeypatch.setattr("spark_embed.verify.lookup._WINDOW_ROWS", 8)
    monkeypatch.setattr("spark_embed.verify.lookup._CHUNK_ROWS", 3)
    keys = shard_keys({"a": 20, "b": 20})
    for gone in (3, 9, 25, 38):
        write_table(vectors_table([key for key in keys if key != keys[gone]]), tmp_path / "x", None)
        found = look_up([str(tmp_path / "x")], {"a": [(0, 20)], "b": [(0, 11), (11, 9)]})
        shard, row = keys[gone]
        assert {name: str(one) for name, one in found.items() if one} == {shard: f"missing {row}"}


# Vectors and errors.


@pytest.mark.parametrize(
    ("vector", "text"),
    [
        (None, "null"),
        ([], f"not of length {DIM}"),
        ([0.5] * (DIM - 1), f"not of length {DIM}"),
        ([0.5] * (DIM + 1), f"not of length {DIM}"),
        ([0.0] * DIM, "all zero"),
        ([-0.0] * DIM, "all zero"),
        ([0.5] * (DIM - 1) + [float("nan")], "not finite"),
        ([float("inf")] + [0.5] * (DIM - 1), "not finite"),
        ([-float("inf")] + [0.0] * (DIM - 1), "not finite"),
        ([None] + [0.5] * (DIM - 1), "not finite"),
    ],
)
def test_a_vector_that_no_model_gives(output, capsys, vector, text):
    rewrite(path_of(output, SECOND), with_vector(3, vector))
    list_anew(output)
    assert findings(output, capsys) == [
        f"vectors {SECOND}: 1 row with a vector that is {text}: shard b.parquet, row 3"
    ]


def test_vectors_that_only_look_odd(output, capsys):
    """Their squares are no float32."""
    rewrite(path_of(output, FIRST), with_vector(0, [1e-30] * DIM))
    rewrite(path_of(output, SECOND), with_vector(0, [3e38] * DIM))
    list_anew(output)
    assert findings(output, capsys) == []


def test_many_bad_vectors_are_counted(output, capsys):
    rewrite(
        path_of(output, FIRST),
        with_column("embedding", lambda values: [[0.0] * DIM, None, None, *values[3:-1], [0.0] * DIM]),
    )
    list_anew(output)
    assert findings(output, capsys) == [
        f"vectors {FIRST}: 2 rows with a vector that is null, the first is shard a.parquet, row 1",
        f"vectors {FIRST}: 2 rows with a vector that is all zero, the first is shard a.parquet, row 0",
    ]


@pytest.mark.parametrize("code", ["oops", "", None])
def test_an_error_that_is_none(output, capsys, code):
    rewrite(path_of(output, ERRORS), with_column("error", lambda codes: [*codes[:-1], code]))
    list_anew(output)
    found = findings(output, capsys)
    assert f"errors {ERRORS}: 1 row with an error that is no known code: shard b.parquet, row 0" in found


def test_errors_that_are_not_those_listed(output, capsys):
    rewrite(path_of(output, ERRORS), with_column("error", lambda codes: ["timeout", *codes[1:]]))
    ledger = read_ledger(output)
    size = path_of(output, ERRORS).stat().st_size
    listed = ledger.errors[0].model_copy(update={"n_bytes": size})
    write_ledger(output, ledger.model_copy(update={"errors": (listed,)}))
    text = "has errors 1 corrupt, 1 null_bytes, 1 timeout, in files.json 2 corrupt, 1 null_bytes"
    assert findings(output, capsys) == [f"errors {ERRORS}: {text}"]


def test_errors_with_vectors(output, capsys):
    rewrite(
        path_of(output, ERRORS),
        lambda table: table.append_column("embedding", pa.array([None] * 3, pa.list_(pa.float32()))),
    )
    list_anew(output)
    assert findings(output, capsys) == [f"errors {ERRORS}: has a column embedding"]


# Files.


def test_a_file_that_is_gone(output, capsys):
    path_of(output, FIRST).unlink()
    assert findings(output, capsys) == [
        f"files {FIRST}: cannot be read: No such file or directory",
        "rows shard a.parquet: 3 of 10 rows are there: missing 0-2, 5-8",
    ]


@pytest.mark.parametrize("name", ["part-9.parquet", "notes.txt", "sub/x.parquet"])
def test_a_file_that_nobody_lists(output, capsys, name):
    path = path_of(output, f"errors.parquet/{name}")
    path.parent.mkdir(exist_ok=True)
    path.touch()
    (found,) = findings(output, capsys)
    assert found.startswith(f"files errors.parquet/{name}: is not in files.json; ")


def test_files_that_readers_do_not_see_are_in_nobodys_way(output, capsys):
    for name in ("_SUCCESS", ".part-0.parquet.crc"):
        path_of(output, f"embeddings.parquet/{name}").touch()
    assert findings(output, capsys) == []


@pytest.mark.parametrize("folder", ["embeddings.parquet", "errors.parquet"])
def test_a_folder_that_is_gone(output, capsys, folder):
    path_of(output, folder).rename(path_of(output, "_spark_embed/moved"))
    found = findings(output, capsys)
    assert any(line.startswith("files ") and folder in line and "cannot be listed" in line for line in found)


def test_damage_anywhere_in_a_file_is_told_in_a_line(output, capsys):
    """No byte of a file makes a traceback; whatever does not read is told."""
    path = path_of(output, FIRST)
    whole = path.read_bytes()
    n_found = 0
    for position in range(0, len(whole), 97):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        n_found += bool(verify(output).n_findings)
    assert n_found > len(whole) / 97 / 3  # statistics, offsets of pages and the like are not read
    path.write_bytes(whole[: len(whole) // 2])
    found = findings(output, capsys)
    assert any(line.startswith(f"files {FIRST}: has ") and " bytes, in files.json " in line for line in found)
    assert any(line.startswith(f"files {FIRST}: cannot be read: ") for line in found)
    path.write_bytes(b"")
    assert any(line.startswith(f"files {FIRST}: cannot be read: ") for line in findings(output, capsys))


def test_a_file_of_other_rows_than_listed(output, capsys):
    rewrite(path_of(output, FIRST), without(6))
    found = findings(output, capsys)
    assert f"files {FIRST}: has 6 rows, in files.json 7" in found
    assert "rows shard a.parquet: 9 of 10 rows are there: missing 8" in found


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda table: table.drop_columns(["shard"]), "has no column shard"),
        (lambda table: table.drop_columns(["shard_row"]), "has no column shard_row"),
        (lambda table: table.drop_columns(["embedding"]), "has no column embedding"),
        (with_column("caption", lambda values: values), None),
        (
            lambda table: table.set_column(1, "shard", pa.array(range(len(table)))),
            "its column shard is of type int64",
        ),
        (
            lambda table: table.set_column(3, "embedding", pa.array(["x"] * len(table))),
            "its column embedding is of type string",
        ),
    ],
)
def test_columns_that_are_not_ours(output, capsys, change, text):
    rewrite(path_of(output, FIRST), change)
    list_anew(output)
    found = findings(output, capsys)
    assert (found[0] if found else None) == (text and f"files {FIRST}: {text}")


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (
            {"fingerprint": fingerprint(dtype="bfloat16")},
            "than run.json says (dtype)",
        ),
        ({"fingerprint": {**fingerprint(), "new": 1}}, "than run.json says (new)"),
        ({"model": "tiny"}, "does not say what made its vectors"),
        ([1], "does not say what made its vectors"),
        ("\udcff", "does not say what made its vectors"),
    ],
)
def test_a_file_of_other_vectors(output, capsys, facts, text):
    path = path_of(output, SECOND)
    write_table(pq.read_table(path), path, facts)
    list_anew(output)
    (found,) = findings(output, capsys)
    assert found.startswith(f"files {SECOND}: ")
    assert text in found


# What the state says.


@pytest.mark.parametrize(
    ("name", "text"),
    [("files.json", "put a copy back, or start anew with --overwrite"), ("run.json", "is broken")],
)
def test_a_broken_state(output, capsys, name, text):
    Path(output.state, name).write_text('{"generation": ')
    (found,) = findings(output, capsys)
    assert found.startswith(f"state {output.state}/{name}: is broken")
    assert text in found


def test_a_state_that_is_gone(output, capsys):
    Path(output.run_record).unlink()
    assert findings(output, capsys) == [
        "state run.json: is missing; put a copy back, or start anew with --overwrite"
    ]


def test_nothing_published_yet(tmp_path, capsys):
    output = Output(str(tmp_path))
    make_run(output)
    assert findings(output, capsys) == ["state nothing is published yet: no run has come to its end here"]


@pytest.mark.parametrize("name", [".", "nothing", "file"])
def test_a_folder_that_is_none_of_ours(tmp_path, capsys, name):
    (tmp_path / "file").touch()
    assert main(["verify", str(tmp_path / name)]) == 2
    assert "give the --output_dir of a run" in capsys.readouterr().err


def test_a_summary_of_another_state(output, capsys):
    write_ledger(output, read_ledger(output).model_copy(update={"generation": 4}))
    assert findings(output, capsys) == [
        "metadata metadata.json: is of another state: a run was interrupted, start it again"
    ]
    Path(output.metadata).unlink()
    assert findings(output, capsys) == [
        "metadata metadata.json: is missing: a run was interrupted, start it again"
    ]
    Path(output.metadata).write_text("{")
    (found,) = findings(output, capsys)
    assert found.startswith(f"metadata {output.metadata}: cannot be read as JSON")


def test_a_summary_of_other_counts(output, capsys):
    summary = json.loads(Path(output.metadata).read_text())
    summary["counts"] |= {"errors": 4, "errors_by_code": {"corrupt": 3}}
    Path(output.metadata).write_text(json.dumps(summary))
    assert findings(output, capsys) == [
        "metadata metadata.json: counts.errors is 4, by files.json 3",
        "metadata metadata.json: counts.errors_by_code is {'corrupt': 3}, by files.json "
        "{'corrupt': 2, 'null_bytes': 1}",
    ]


def test_what_a_run_at_work_may_put_right_is_a_note(output, capsys):
    make_wave(output, "w", [Part("c.parquet", "1", 0, 1234)])
    make_progress(output, "embed", n_rows=1251)
    path_of(output, "embeddings.parquet/new.parquet").touch()
    Path(output.metadata).unlink()
    with OutputLock(output.lock, output.root):
        assert main(["verify", output.root]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note ")]
    for text in (
        "a run is at work here: host ",
        "1 complete waves of 1,234 rows are not published yet",
        "17 of 1,251 rows are published",
        "embeddings.parquet/new.parquet: is not in files.json",
        "metadata.json: is missing",
    ):
        assert sum(text in note for note in notes) == 1
    assert len(notes) == 5


def test_an_older_data_set_is_compared_with_itself(output, capsys):
    make_run(output, "run-2", fingerprint(dtype="bfloat16", embedding_dim=99))
    assert main(["verify", output.root]) == 0
    assert "an older data set is still published" in capsys.readouterr().out
    rewrite(path_of(output, FIRST), with_vector(1, [0.5] * (DIM + 1)))
    list_anew(output)
    (found,) = findings(output, capsys)
    assert "not of length 4" in found


def test_what_is_published_anew_meanwhile_is_read_again(output, monkeypatch):
    """A run replaces the files while they are read: the state that it leaves is what counts."""
    path = path_of(output, FIRST)
    read = verify_room.find_unlisted
    generations = []

    def read_and_replace(output, ledger):
        generations.append(ledger.generation)
        found = list(read(output, ledger))
        if len(generations) == 1:
            path.rename(path.with_name("part-00007.parquet"))
            list_anew(output, generation=4)
        return found

    monkeypatch.setattr(verify_room, "find_unlisted", read_and_replace)
    assert verify(output).text() == "checked  3 files, 14 rows with a vector, 3 without: nothing is wrong"
    assert generations == [3, 4]


def test_a_run_that_publishes_all_the_time_is_told(output, capsys, monkeypatch):
    def publish_and_lose(output, ledger):
        path_of(output, FIRST).unlink(missing_ok=True)
        write_ledger(output, ledger.model_copy(update={"generation": ledger.generation + 1}))
        return []

    monkeypatch.setattr(verify_room, "find_unlisted", publish_and_lose)
    assert main(["verify", output.root]) == 7
    told = capsys.readouterr()
    assert told.out == ""
    assert "verify it when no run is at work" in told.err


def test_a_flipped_bit_is_found_where_there_are_checksums(output, capsys):
    path = path_of(output, FIRST)
    table = pq.read_table(path)
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    list_anew(output)
    assert findings(output, capsys) == []
    data = bytearray(path.read_bytes())
    value = np.float32(table["embedding"][2][1].as_py()).tobytes()
    data[data.index(value)] ^= 1
    path.write_bytes(data)
    (found, *_) = findings(output, capsys)
    assert found.startswith(f"files {FIRST}: cannot be read: ")
    assert "CRC" in found


# An image folder.


@pytest.fixture
def folder(tmp_path) -> Output:
    """Three hundred images in two index files; ten of the first have changed, and their rows are void."""
    output = Output(str(tmp_path / "out"))
    make_run(output, made_by=fingerprint("image_folder"))
    first, second = [image(i) for i in range(250)], [image(i) for i in (*range(10), *range(250, 300))]
    write_index(output, "0000-x.parquet", first)
    write_index(output, "0001-y.parquet", second)
    write_index(output, "0001-y.void.parquet", second[:10])
    shards = {
        "0000-x.parquet": ShardState("", ((0, 100), (120, 130))),  # so twenty images are not done yet
        "0001-y.parquet": ShardState("", ((0, 60),)),
    }
    images = [(name, 0) for name in (*first[10:100], *first[120:], *second)]
    errors = dict.fromkeys(images[::50], "not_found")
    keys = [key for key in images if key not in errors]
    publish(output, [keys[:150], keys[150:]], errors, shards, fingerprint("image_folder"))
    list_anew(output, voided=("0001-y.void.parquet",))
    return output


def image(number: int) -> str:
    return f"cat/ü {number:03d}.jpg"


def write_index(output: Output, name: str, images: list[str]) -> None:
    path = Path(output.index, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"__shard__": images, "__shard_row__": [0] * len(images)})
    pq.write_table(table, path, row_group_size=64)


def test_a_good_image_folder_is_good(folder, capsys):
    assert findings(folder, capsys) == []


def test_images_that_are_not_there_once(folder, capsys):
    names = pq.read_table(path_of(folder, FIRST))["shard"].to_pylist()

    def change(table):
        changed = with_column("shard", lambda names: [image(110), *names[1:5], names[6], *names[6:]])(table)
        return without(9)(changed)

    rewrite(path_of(folder, FIRST), change)
    list_anew(folder)
    assert findings(folder, capsys) == [
        "rows 279 images are there, 280 are in the index",
        *sorted(
            [
                f"rows image {names[0]}: is missing",
                f"rows image {names[5]}: is missing",
                f"rows image {names[6]}: is there 2 times",
                f"rows image {names[9]}: is missing",
                f"rows image {image(110)}: is there, and should not be",
            ]
        ),
    ]


@pytest.mark.parametrize("position", [0, 77, 149])
def test_an_image_under_another_name(folder, capsys, position):
    gone = pq.read_table(path_of(folder, FIRST))["shard"][position].as_py()
    rewrite(
        path_of(folder, FIRST),
        with_column("shard", lambda names: [*names[:position], "new.jpg", *names[position + 1 :]]),
    )
    list_anew(folder)
    assert findings(folder, capsys) == [
        "rows 280 images are there, 280 are in the index",
        f"rows image {gone}: is missing",
        "rows image new.jpg: is there, and should not be",
    ]


def test_an_image_has_one_row(folder, capsys):
    rewrite(path_of(folder, SECOND), with_column("shard_row", lambda rows: [1, 2, *rows[2:]]))
    list_anew(folder)
    assert findings(folder, capsys) == ["rows 2 rows have a shard_row other than 0, that of an image"]


def test_an_index_that_is_not_what_it_was(folder, capsys):
    write_index(folder, "0001-y.parquet", [image(i) for i in range(30)])
    (found,) = findings(folder, capsys)
    assert "0001-y.parquet of the index has 30 rows, in files.json 60" in found
    Path(folder.index, "0001-y.void.parquet").unlink()
    write_index(folder, "0001-y.parquet", [image(i) for i in range(60)])
    (found,) = findings(folder, capsys)
    assert (
        "which images there should be cannot be said: 0001-y.void.parquet of the index cannot be read"
        in found
    )


def test_many_images_that_are_wrong_are_told_shortly(folder, capsys, monkeypatch):
    monkeypatch.setattr("spark_embed.verify.folder_rows._MAX_NAMES", 8)
    path_of(folder, FIRST).unlink()
    found = findings(folder, capsys)
    assert found[1] == "rows 130 images are there, 280 are in the index"
    assert 1 <= len(found) - 2 <= 8


def test_an_older_image_folder_is_checked_but_for_its_images(folder, capsys):
    make_run(folder, "run-2")
    Path(folder.index, "0000-x.parquet").unlink()
    assert main(["verify", folder.root]) == 0
    assert "the index is that of the newer run" in capsys.readouterr().out


# What it takes.

MEASURE = """
import re, sys
from pathlib import Path
from spark_embed.output import Output
from spark_embed.verify import verify

def peak_kib():  # not getrusage: that may be of the process before exec
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

verify(Output(sys.argv[1]))
before = peak_kib()
report = verify(Output(sys.argv[2]))
after = peak_kib()
seen = bytearray(500 << 20)
print(report.n_findings, after - before, peak_kib() - after)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    make_many(tmp_path / "few", 400_000)
    make_many(tmp_path / "many", 2_000_000)
    command = [sys.executable, "-c", MEASURE, tmp_path / "few", tmp_path / "many"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    n_findings, grown, seen = map(int, done.stdout.split())
    assert n_findings == 0
    assert grown < 60_000  # KiB, mostly of the allocator; the keys, as Python's, would take 250 MB
    assert seen > 200_000


def make_many(root: Path, n_rows: int) -> Output:
    """Publish shards of 20,000 rows with vectors of 2 numbers, in files of 100,000."""
    output = Output(str(root))
    made_by = fingerprint(embedding_dim=2)
    make_run(output, made_by=made_by)
    publish(output, [], {}, made_by=made_by)
    for start in range(0, n_rows, 100_000):
        rows = np.arange(start, start + 100_000)
        table = pa.table(
            {
                "shard": pc.cast(pa.array(rows // 20_000), pa.string()),
                "shard_row": rows % 20_000,
                "embedding": pa.ListArray.from_arrays(
                    np.arange(0, 200_001, 2, dtype=np.int32), np.ones(200_000, np.float32)
                ),
            }
        )
        write_table(table, Path(output.embeddings, f"{start:09d}.parquet"), {"fingerprint": made_by})
    shards = {str(number): ShardState("1", ((0, 20_000),)) for number in range(n_rows // 20_000)}
    write_summary(output, list_anew(output, shards=shards))
    return output
