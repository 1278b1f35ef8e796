"""Parquet shards become the table of references: every row once, with its place and its image."""

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from spark_embed.datasets.units import Unit
from spark_embed.errors import StorageError
from spark_embed.inference.fetch.references import FetchPolicy, make_locate
from spark_embed.schema import IMAGE

from support.shard_files import error_of, find, rows, write
from support.sources import table_of


def test_every_row_is_there_once_with_its_place_and_its_bytes(spark, tmp_path):
    write(tmp_path, "b.parquet", {"key": ["x", "y"], "jpg": [b"1", None]})
    write(tmp_path, "sub/a.parquet", {"key": ["z"], "jpg": [b"3"]}, row_group_size=1)
    source = find(tmp_path)
    assert (source.layout, source.n_rows, len(source.shards)) == ("parquet", 3, 2)

    table = table_of(spark, source).withColumn("bytes", F.col(IMAGE)["bytes"])

    expected = [("x", "b.parquet", 0, bytearray(b"1")), ("z", "sub/a.parquet", 0, bytearray(b"3"))]
    assert rows(table.where("bytes is not null"), "image_id", "shard", "shard_row", "bytes") == expected
    assert rows(table.where("bytes is null"), "image_id", "shard", "shard_row") == [("y", "b.parquet", 1)]
    assert "jpg" not in table.columns


def test_names_that_are_patterns_or_escapes_elsewhere_are_only_names(spark, tmp_path):
    names = ["x[1].parquet", "a b+c%20d.parquet", "é{1,2}*?.parquet", "日本/🙂.parquet"]
    for name in names:
        write(tmp_path / "in put[x]", name, {"jpg": [name.encode()]})
    write(tmp_path / "in put[x]", "x1.parquet", {"jpg": [b"x1.parquet"]})

    table = table_of(spark, find(tmp_path / "in put[x]")).select(
        "shard", F.col(IMAGE)["bytes"].cast("string")
    )

    assert sorted(map(tuple, table.collect())) == sorted((name, name) for name in [*names, "x1.parquet"])


def test_a_sample_takes_shards_from_all_over_the_data_set_in_turns(tmp_path):
    """Parity looks at the first few rows of it."""
    write(tmp_path, "empty.parquet", {"jpg": pa.array([], pa.binary())})
    assert find(tmp_path).sample(8) == []
    for shard in range(8):
        images = [f"{shard}-{row}".encode() if row else None for row in range(9)]
        write(
            tmp_path,
            f"{shard}.parquet",
            {"n": pa.nulls(9, pa.int8() if shard % 4 else pa.int32()), "jpg": images},
        )
    source = find(tmp_path)
    images = [None] * 4 + [f"{shard}-1".encode() for shard in (0, 2, 4, 6)]
    assert [row.reference.inline for row in source.sample(8)] == images
    places = [(f"{shard}.parquet", row) for row in (0, 1) for shard in (0, 2, 4, 6)]
    sample = [row.reference for row in replace(source, transport="reference").sample(8)]
    assert [(Path(reference.file).name, reference.row) for reference in sample] == places
    read = make_locate(FetchPolicy(column="jpg"))
    assert [reference.inline and bytes(reference.inline) for reference in map(read, sample)] == images


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 99])
def test_the_first_rows_come_in_shard_order(spark, tmp_path, n):
    write(tmp_path, "0.parquet", {"key": ["a", "b"], "jpg": [b"1", b"1"]})
    write(tmp_path, "1.parquet", {"key": ["c", "d", "e"], "jpg": [b"1"] * 3})
    assert [key for (key,) in rows(table_of(spark, find(tmp_path), n), "key")] == list("abcde")[:n]


@pytest.mark.parametrize(("first", "n_rows"), [(0, 1), (0, 9), (3, 4), (4, 4), (9, 1), (0, 10)])
def test_a_part_of_a_shard_is_read_with_its_own_row_numbers(spark, tmp_path, first, n_rows):
    """Beside a whole shard of other types, and across row groups."""
    keys = [f"k{row}" for row in range(10)]
    numbers = pa.array(range(10), pa.int32())
    write(tmp_path, "0.parquet", {"key": keys, "n": numbers, "jpg": [b"1"] * 10}, row_group_size=4)
    write(tmp_path, "1.parquet", {"key": ["x"], "n": [0.5], "jpg": [b"1"]})
    write(tmp_path, "2.parquet", {"key": ["not wanted"], "n": numbers[:1], "jpg": [b"1"]})
    source = find(tmp_path)
    table = source.table(spark, [Unit(source.shards[0], first, n_rows), Unit(source.shards[1], 0, 1)])
    wanted = [("0.parquet", row, f"k{row}", float(row)) for row in range(first, first + n_rows)]
    assert rows(table, "shard", "shard_row", "key", "n") == [*wanted, ("1.parquet", 0, "x", 0.5)]


def test_a_url_column_gives_references_to_paths(spark, tmp_path):
    write(tmp_path, "sub/a.parquet", {"url": ["x.jpg", None], "n": [1, 2]})
    source = find(tmp_path)
    assert source.layout == "url_table"
    images = [row[IMAGE] for row in table_of(spark, source).orderBy("n").collect()]
    assert [(image["uri"], image["base"]) for image in images] == [
        (b"x.jpg", bytes(tmp_path / "sub")),
        (None, bytes(tmp_path / "sub")),
    ]
    assert [field.name for field in source.own_columns] == ["url", "n"]


def test_an_input_without_images_says_what_is_there(tmp_path):
    assert "no such folder" in error_of(tmp_path / "missing")
    (tmp_path / "_one.parquet").touch()
    assert "_one.parquet: this is a file; give the folder" in error_of(tmp_path / "_one.parquet")
    assert "holds 1 .parquet below a name that begins with _ (_one.parquet): nothing" in error_of(tmp_path)
    write(tmp_path, "a.parquet", {"a": [1], "b": ["x"]})
    text = error_of(tmp_path)
    assert "no image column" in text
    assert "a, b" in text
    assert str(tmp_path) in text
    write(tmp_path, "a.parquet", {"url": [1], "b": ["x"]})
    assert "no image column" in error_of(tmp_path)


def test_a_file_that_is_not_parquet_is_left_out_and_named(spark, tmp_path):
    write(tmp_path, "0.parquet", {"jpg": [b"1"]})
    write(tmp_path, "2.parquet", {"jpg": [b"3"]})
    (tmp_path / "1.parquet").write_bytes(b"not parquet at all")
    source = find(tmp_path)
    assert [shard.name for shard in source.shards] == ["0.parquet", "2.parquet"]
    assert (source.n_shards, source.n_rows) == (3, 2)
    (bad,) = source.bad
    assert bad.name == "1.parquet"
    assert bad.reason.startswith(f"{tmp_path}/1.parquet: cannot be read as parquet: ")
    assert rows(table_of(spark, source), "shard") == [("0.parquet",), ("2.parquet",)]


def test_a_pointer_of_git_lfs_is_called_one_with_the_command_that_helps(material, tmp_path):
    write(tmp_path, "0.parquet", {"jpg": [b"1"]})
    pointer = next((material / "found/33-lfs-parquet").glob("*.parquet")).read_bytes()
    (tmp_path / "1.parquet").write_bytes(pointer)
    (bad,) = find(tmp_path).bad
    assert bad.reason.startswith(f"{tmp_path}/1.parquet: a Git LFS pointer")
    assert "git lfs pull" in bad.reason
    with pytest.raises(StorageError, match=r"none of 1 shards can be read; .*git lfs pull"):
        find(material / "found/33-lfs-parquet")


def test_files_of_which_none_is_parquet_stop_the_job(tmp_path):
    for name in ("a.parquet", "b.parquet"):
        (tmp_path / name).write_bytes(b"not parquet at all")
    with pytest.raises(
        StorageError, match=rf"none of 2 shards .* first: {tmp_path}/a\.parquet: cannot be read"
    ):
        find(tmp_path)


def test_hidden_files_are_no_shards_and_a_colon_is_refused(tmp_path):
    write(tmp_path, "a.parquet", {"jpg": [b"1"]})
    write(tmp_path, "_temporary/b.parquet", {"jpg": [b"1"]})
    write(tmp_path, ".c.parquet", {"jpg": [b"1"]})
    assert find(tmp_path).n_rows == 1
    write(tmp_path, "12:30.parquet", {"jpg": [b"1"]})
    assert "12:30.parquet" in error_of(tmp_path)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    write(tmp_path, "a.parquet", {"jpg": [b"1"]})
    (tmp_path / "a.parquet").rename(os.fsdecode(bytes(tmp_path) + b"/\xff.parquet"))
    assert r"rename \xff.parquet" in error_of(tmp_path)
