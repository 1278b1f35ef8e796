"""Which columns are the image, the id and the data set's own: found, chosen, or asked for by a flag."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.schema import IMAGE
from spark_embed.spark.settings import settings, table_settings

from support.shard_files import error_of, find, rows, write
from support.sources import table_of


def test_folders_such_as_cat_equals_007_become_text_columns(spark, tmp_path):
    write(tmp_path, "cat=007/a.parquet", {"jpg": [b"1"]})
    write(tmp_path, "cat=b c/deep/a.parquet", {"jpg": [b"2"]})
    write(tmp_path, "cat=%2F+/a.parquet", {"jpg": [b"3"]})
    write(tmp_path, "cat=__HIVE_DEFAULT_PARTITION__/a.parquet", {"jpg": [b"4"]})
    by_shard = table_of(spark, find(tmp_path)).orderBy("shard").select("cat").collect()
    assert [row.cat for row in by_shard] == ["/+", "007", None, "b c"]
    write(tmp_path, "plain.parquet", {"jpg": [b"3"]})
    assert f"{tmp_path}: " in error_of(tmp_path)
    assert "plain.parquet" in error_of(tmp_path)


def test_a_folders_column_that_is_there_twice_stops_the_job(spark, tmp_path):
    write(tmp_path / "twice", "x=1/x=2/a.parquet", {"jpg": [b"1"]})
    assert "x=1/x=2/a.parquet has two folders for one column" in error_of(tmp_path / "twice")
    write(tmp_path / "both", "x=1/a.parquet", {"x": [5], "y": [6], "jpg": [b"1"]})
    assert "--drop_columns x" in error_of(tmp_path / "both")
    assert "--id_column" in error_of(tmp_path / "both", drop_columns=("x",), id_column="x")
    assert rows(table_of(spark, find(tmp_path / "both", drop_columns=("x",))), "y") == [(6,)]
    write(tmp_path / "image", "jpg=1/a.parquet", {"jpg": [b"1"]})
    assert "rename one" in error_of(tmp_path / "image")
    write(tmp_path / "case", "X=1/a.parquet", {"x": [5], "jpg": [b"1"]})
    assert "differ only in case" in error_of(tmp_path / "case")


def test_a_column_that_a_file_has_twice_stops_the_job_unless_it_is_left_out(spark, tmp_path):
    table = pa.Table.from_arrays([pa.array(values) for values in ([b"1"], [1], [2])], names=["jpg", "a", "a"])
    pq.write_table(table, tmp_path / "0.parquet")
    assert "0.parquet has 2 columns called 'a', and Spark reads none; leave it out" in error_of(tmp_path)
    assert rows(table_of(spark, find(tmp_path, drop_columns=("a",))), "image_id") == [("0.parquet#0",)]


@pytest.mark.parametrize(
    "name",
    [
        "embedding",
        "Error",
        "shard",
        "shard_row",
        "error_detail",
        "image_id",
        "_metadata",
        "__image__",
        "__RESULT__",
    ],
)
def test_a_column_that_the_output_needs_stops_the_job(spark, tmp_path, name):
    write(tmp_path, "a.parquet", {name: ["1"], "jpg": [b"1"]})
    assert f"--drop_columns {name}" in error_of(tmp_path)
    assert rows(table_of(spark, find(tmp_path, drop_columns=(name,))), "shard_row") == [(0,)]


def test_the_name_of_sparks_hidden_column_is_no_use_for_the_id_either(tmp_path):
    write(tmp_path, "a.parquet", {"_metadata": [b"1"], "jpg": [b"1"]})
    for flag in ("id_column", "image_column"):
        assert f"--{flag} '_metadata'" in error_of(
            tmp_path, drop_columns=("_metadata",), **{flag: "_metadata"}
        )


def test_columns_that_differ_only_in_case_stop_the_job_until_one_is_dropped(spark, tmp_path):
    write(tmp_path, "a.parquet", {"Url": ["1"], "url": ["2"], "jpg": [b"1"], "JPG": [b"2"]})
    assert "--drop_columns url" in error_of(tmp_path)
    with settings(spark, table_settings(1000)):
        for dropped, kept, value in (("url", "Url", "1"), ("Url", "url", "2")):
            table = table_of(spark, find(tmp_path, drop_columns=(dropped,)))
            assert table.columns == [kept, "JPG", "image_id", "shard", "shard_row", IMAGE]
            row = table.collect()[0]
            assert (row[kept], row["JPG"], row[IMAGE]["bytes"]) == (value, b"2", b"1")


def test_the_id_is_a_column_of_choice_or_key_or_id_or_the_place(spark, tmp_path):
    write(tmp_path, "a.parquet", {"id": [7, None], "image_id": ["p", "q"], "jpg": [b"1", b"2"]})
    by_id = table_of(spark, find(tmp_path, drop_columns=("image_id",)))
    assert rows(by_id, "image_id") == [("7",), ("a.parquet#1",)]  # a null id still gets a name
    own = find(tmp_path, id_column="image_id")
    assert rows(table_of(spark, own), "image_id") == [("p",), ("q",)]
    assert [field.name for field in own.own_columns] == ["id"]
    assert "'nope'" in error_of(tmp_path, id_column="nope")


def test_columns_are_chosen_by_name(tmp_path):
    write(tmp_path, "a.parquet", {"a": [1], "b.c": [2], "c": [3], "jpg": [b"1"]})
    assert [field.name for field in find(tmp_path, columns=("b.c", "a")).own_columns] == ["b.c", "a"]
    assert [field.name for field in find(tmp_path, drop_columns=("a",)).own_columns] == ["b.c", "c"]
    assert "'d'" in error_of(tmp_path, columns=("d",))
    assert [field.name for field in find(tmp_path, columns=("a", "c", "a")).own_columns] == ["a", "c"]


def test_the_image_column_is_found_or_asked_for(tmp_path):
    write(tmp_path, "a.parquet", {"thumb": [b"1"], "number": [1]})
    text = error_of(tmp_path)
    assert "--image_column" in text
    assert "thumb" in text
    assert find(tmp_path, image_column="thumb").image_column == "thumb"
    assert str(tmp_path) in text
    assert "'nope'" in error_of(tmp_path, image_column="nope")
    assert "not binary" in error_of(tmp_path, image_column="number")
