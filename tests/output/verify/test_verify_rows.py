"""spark-embed verify finds every row that is not there exactly once."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_embed.cli.main import main
from spark_embed.output.folder import Output
from spark_embed.output.records import ShardState
from spark_embed.output.verify.lookup import look_up
from spark_embed.output.verify.shard_rows import ShardRows
from spark_embed.output.verify.sums import mix, sum_of_range

from support.output_files import (
    list_anew,
    make_output,
    make_run,
    publish,
    rewrite,
    shard_keys,
    states_of,
    vectors_table,
    write_table,
)
from support.verified import ERRORS, FIRST, SECOND, findings, path_of, with_column, without


@pytest.fixture
def output(tmp_path) -> Output:
    return make_output(tmp_path / "out")


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
@settings(max_examples=60)
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
    monkeypatch.setattr("spark_embed.output.verify.lookup._WINDOW_ROWS", 8)
    monkeypatch.setattr("spark_embed.output.verify.lookup._CHUNK_ROWS", 3)
    keys = shard_keys({"a": 20, "b": 20})
    for gone in (3, 9, 25, 38):
        write_table(vectors_table([key for key in keys if key != keys[gone]]), tmp_path / "x", None)
        found = look_up([str(tmp_path / "x")], {"a": [(0, 20)], "b": [(0, 11), (11, 9)]})
        shard, row = keys[gone]
        assert {name: str(one) for name, one in found.items() if one} == {shard: f"missing {row}"}
