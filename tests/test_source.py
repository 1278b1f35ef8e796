"""Parquet shards become the table of references: every row once, every own column unchanged."""

import datetime
import decimal
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chispa import assert_df_equality
from conftest import find_source
from pyspark.sql import functions as F

from spark_embed.config import Config
from spark_embed.errors import ConfigError, StorageError
from spark_embed.fetch import FetchPolicy, make_locate
from spark_embed.schema import IMAGE, spark_type
from spark_embed.tables import settings, table_settings


def write(folder: Path, name: str, columns: dict, **options) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)


def find(folder: Path, **options):
    return find_source(Config(input_dir=str(folder), output_dir="unused", **options))


def rows(frame, *names):
    return sorted(tuple(row[name] for name in names) for row in frame.drop(IMAGE).collect())


def error_of(folder: Path, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        find(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_row_is_there_once_with_its_place_and_its_bytes(spark, tmp_path):
    write(tmp_path, "b.parquet", {"key": ["x", "y"], "jpg": [b"1", None]})
    write(tmp_path, "sub/a.parquet", {"key": ["z"], "jpg": [b"3"]}, row_group_size=1)
    source = find(tmp_path)
    assert (source.layout, source.n_rows, len(source.shards)) == ("parquet", 3, 2)

    table = source.table(spark).withColumn("bytes", F.col(IMAGE)["bytes"])

    expected = [("x", "b.parquet", 0, bytearray(b"1")), ("z", "sub/a.parquet", 0, bytearray(b"3"))]
    assert rows(table.where("bytes is not null"), "image_id", "shard", "shard_row", "bytes") == expected
    assert rows(table.where("bytes is null"), "image_id", "shard", "shard_row") == [("y", "b.parquet", 1)]
    assert "jpg" not in table.columns


def test_names_that_are_patterns_or_escapes_elsewhere_are_only_names(spark, tmp_path):
    names = ["x[1].parquet", "a b+c%20d.parquet", "é{1,2}*?.parquet", "日本/🙂.parquet"]
    for name in names:
        write(tmp_path / "in put[x]", name, {"jpg": [name.encode()]})
    write(tmp_path / "in put[x]", "x1.parquet", {"jpg": [b"x1.parquet"]})

    table = find(tmp_path / "in put[x]").table(spark).select("shard", F.col(IMAGE)["bytes"].cast("string"))

    assert sorted(map(tuple, table.collect())) == sorted((name, name) for name in [*names, "x1.parquet"])


def test_folders_such_as_cat_equals_007_become_text_columns(spark, tmp_path):
    write(tmp_path, "cat=007/a.parquet", {"jpg": [b"1"]})
    write(tmp_path, "cat=b c/deep/a.parquet", {"jpg": [b"2"]})
    write(tmp_path, "cat=%2F+/a.parquet", {"jpg": [b"3"]})
    write(tmp_path, "cat=__HIVE_DEFAULT_PARTITION__/a.parquet", {"jpg": [b"4"]})
    by_shard = find(tmp_path).table(spark).orderBy("shard").select("cat").collect()
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
    assert rows(find(tmp_path / "both", drop_columns=("x",)).table(spark), "y") == [(6,)]
    write(tmp_path / "image", "jpg=1/a.parquet", {"jpg": [b"1"]})
    assert "rename the folders" in error_of(tmp_path / "image")
    write(tmp_path / "case", "X=1/a.parquet", {"x": [5], "jpg": [b"1"]})
    assert "differ only in case" in error_of(tmp_path / "case")


def test_shards_whose_types_differ_are_read_as_one_table(spark, tmp_path):
    """pandas writes a column without values as null; a narrower number fits into a wider one."""
    write(tmp_path, "0.parquet", {"n": pa.array([1], pa.int32()), "t": pa.nulls(1), "jpg": [b"1"]})
    write(tmp_path, "1.parquet", {"n": pa.array([2], pa.uint8()), "t": ["text"], "jpg": [b"1"], "only": [5]})
    write(tmp_path, "2.parquet", {"n": [1.5], "t": pa.array(["d"]).dictionary_encode(), "jpg": pa.nulls(1)})
    source = find(tmp_path)
    assert rows(source.table(spark).fillna(0, ["only"]).fillna("-", ["t"]), "n", "t", "only") == [
        (1.0, "-", 0),
        (1.5, "d", 0),
        (2.0, "text", 5),
    ]
    write(tmp_path, "3.parquet", {"n": ["word"], "jpg": [b"1"]})
    text = error_of(tmp_path)
    assert "'n'" in text
    assert "3.parquet" in text
    assert "--drop_columns n" in text
    assert find(tmp_path, drop_columns=("n",)).n_rows == 4


D = decimal.Decimal
LOSSLESS = [
    (pa.array([2**31 - 1], pa.int32()), pa.array([0.5]), [2.0**31 - 1, 0.5]),
    (pa.array([2**31 - 1], pa.int32()), pa.array([0.5], pa.float32()), [2.0**31 - 1, 0.5]),  # double
    (pa.array([2**15 - 1], pa.int16()), pa.array([0.5], pa.float32()), [2.0**15 - 1, 0.5]),
    (pa.array([2**63], pa.uint64()), pa.array([-1]), [D(2**63), D(-1)]),
    (pa.array([D("99.5")]), pa.array([D("0.125")]), [D("99.500"), D("0.125")]),
    (pa.array([[None], []]), pa.array([["a"]]), [[None], [], ["a"]]),
    (pa.array([{"a": None}]), pa.array([{"a": 0.5}]), [(None,), (0.5,)]),
    (pa.array([{"a": None}]), pa.array([{"a": True}]), [(None,), (True,)]),
    (pa.array([[None]]), pa.array([[D("0.5")]]), [[None], [D("0.5")]]),
    (pa.array([{"a": 1}], pa.struct([("a", pa.int8())])), pa.array([{"a": 2**40}]), [(1,), (2**40,)]),
    (pa.array([b"a"], pa.binary(1)), pa.array([b"bc"]), [bytearray(b"a"), bytearray(b"bc")]),
]


@pytest.mark.parametrize(("one", "other", "expected"), LOSSLESS)
def test_a_type_is_widened_where_no_value_changes(spark, tmp_path, one, other, expected):
    write(tmp_path, "0.parquet", {"c": one, "jpg": [b"1"] * len(one)})
    write(tmp_path, "1.parquet", {"c": other, "jpg": [b"1"]})
    table = find(tmp_path).table(spark).orderBy("shard", "shard_row")
    assert [row.c for row in table.select("c").collect()] == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.int64(), pa.float64()),  # what pandas makes of integers with a gap: exact only up to 2**53
        (pa.int32(), pa.string()),
        (pa.int64(), pa.float32()),
        (pa.uint64(), pa.float64()),
        (pa.string(), pa.binary()),
        (pa.date32(), pa.timestamp("us")),
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.duration("ms"), pa.duration("us")),
        (pa.list_(pa.duration("ms")), pa.list_(pa.duration("us"))),
        (pa.struct([("a", pa.int32())]), pa.struct([("a", pa.int32()), ("b", pa.int32())])),
        (pa.struct([("a", pa.int64())]), pa.struct([("a", pa.float64())])),
        (pa.struct([("a", pa.int32())]), pa.struct([("b", pa.int32())])),
        (pa.list_(pa.int64()), pa.list_(pa.float64())),
        (pa.list_(pa.int64()), pa.int64()),
        (pa.list_(pa.null()), pa.list_(pa.date32())),  # Spark casts no integer, as which it reads a null
        (pa.struct([("a", pa.list_(pa.int8()))]), pa.struct([("a", pa.null())])),
        (pa.decimal128(38, 0), pa.decimal128(38, 10)),
        (pa.decimal128(5, 2), pa.float64()),
    ],
)
def test_types_that_no_type_holds_unchanged_stop_the_job(tmp_path, one, other):
    write(tmp_path, "0.parquet", {"c": pa.nulls(1, one), "jpg": [b"1"]})
    write(tmp_path, "1.parquet", {"c": pa.nulls(1, other), "jpg": [b"1"]})
    write(tmp_path, "2.parquet", {"c": pa.nulls(1), "jpg": [b"1"]})
    text = error_of(tmp_path)
    assert [
        w for w in ("'c'", "0.parquet", "1.parquet", "--drop_columns c", str(one)[:4]) if w not in text
    ] == []
    assert find(tmp_path, drop_columns=("c",)).n_rows == 3


@pytest.mark.parametrize("values", [pa.array([1], pa.int32()), pa.array([1], pa.int64())])
def test_equal_ids_look_the_same_from_every_shard(spark, tmp_path, values):
    write(tmp_path, "0.parquet", {"id": values, "jpg": [b"1"]})
    write(tmp_path, "1.parquet", {"id": [1.0], "jpg": [b"1"]})
    if values.type == pa.int64():
        assert "--drop_columns id" in error_of(tmp_path)
        assert find(tmp_path, drop_columns=("id",)).id is None
        assert "--id_column" in error_of(tmp_path, drop_columns=("id",), id_column="id")
    else:
        assert rows(find(tmp_path).table(spark), "image_id") == [("1.0",), ("1.0",)]


def test_spark_reads_each_arrow_type_as_our_schema_says(spark, tmp_path):
    types = {
        "bool": pa.array([True]),
        "i8": pa.array([1], pa.int8()),
        "u8": pa.array([1], pa.uint8()),
        "u16": pa.array([1], pa.uint16()),
        "u32": pa.array([1], pa.uint32()),
        "u64": pa.array([2**63], pa.uint64()),
        "f32": pa.array([0.5], pa.float32()),
        "day": pa.array([datetime.date(2026, 1, 1)]),
        "us": pa.array([datetime.datetime(2026, 1, 1)], pa.timestamp("us")),
        "utc": pa.array([datetime.datetime(2026, 1, 1)], pa.timestamp("ms", "UTC")),
        "duration": pa.array([7], pa.duration("us")),
        "dec": pa.array([decimal.Decimal("1.50")], pa.decimal128(9, 2)),
        "fixed": pa.array([b"ab"], pa.binary(2)),
        "list": pa.array([[1, 2]], pa.large_list(pa.int32())),
        "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        "struct.dot": pa.array([{"a": "x", "b.c": [0.5]}]),
        "nulls": pa.array([[None]]),
        "null in struct": pa.array([{"a": None, "b": [{"c": None}]}]),
        "null in map": pa.array([[("a", None)]], pa.map_(pa.string(), pa.null())),
    }
    write(tmp_path, "a.parquet", {**types, "jpg": [b"1"]})
    inferred = spark.read.parquet(str(tmp_path)).drop("jpg")
    ours = find(tmp_path).table(spark).select([f"`{name}`" for name in types])
    assert_df_equality(ours, inferred, ignore_nullable=True)


@pytest.mark.parametrize(
    "arrow_type",
    [
        pa.timestamp("ns"),
        pa.float16(),
        pa.time64("us"),
        pa.month_day_nano_interval(),
        pa.list_(pa.timestamp("ns")),
        pa.struct([("a", pa.int8()), ("A", pa.int8())]),
    ],
)
def test_types_that_spark_cannot_hold_are_refused(arrow_type):
    with pytest.raises(TypeError, match="Spark cannot hold"):
        spark_type(arrow_type)


def test_a_column_that_spark_cannot_hold_stops_the_job_until_it_is_dropped(spark, tmp_path):
    write(tmp_path, "a.parquet", {"t": pa.array([1], pa.timestamp("ns")), "jpg": [b"1"]}, version="2.6")
    assert "--drop_columns t" in error_of(tmp_path)
    assert find(tmp_path, drop_columns=("t",)).table(spark).count() == 1


def test_the_timestamps_of_sparks_own_writer_are_read_as_spark_reads_them(spark, tmp_path):
    text = "timestamp'1969-07-20 20:17:40.123456'"
    written = spark.sql(
        f"select {text} t, array({text}) a, named_struct('n', 1, 'm', map('k', {text})) s, binary('1') jpg"
    )
    with settings(spark, {"spark.sql.parquet.outputTimestampType": "INT96"}):
        written.coalesce(1).write.parquet(str(tmp_path / "in"))
    (file,) = (tmp_path / "in").glob("*.parquet")
    assert pq.read_metadata(file).schema.column(0).physical_type == "INT96"
    ours, given = find(tmp_path / "in").table(spark).select("t", "a", "s"), written.select("t", "a", "s")
    assert ours.schema.simpleString() == given.schema.simpleString()
    assert ours.collect() == given.collect()


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
    assert rows(find(tmp_path, drop_columns=(name,)).table(spark), "shard_row") == [(0,)]


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
            table = find(tmp_path, drop_columns=(dropped,)).table(spark)
            assert table.columns == [kept, "JPG", "image_id", "shard", "shard_row", IMAGE]
            row = table.collect()[0]
            assert (row[kept], row["JPG"], row[IMAGE]["bytes"]) == (value, b"2", b"1")


def test_the_id_is_a_column_of_choice_or_key_or_id_or_the_place(spark, tmp_path):
    write(tmp_path, "a.parquet", {"id": [7, None], "image_id": ["p", "q"], "jpg": [b"1", b"2"]})
    by_id = find(tmp_path, drop_columns=("image_id",)).table(spark)
    assert rows(by_id, "image_id") == [("7",), ("a.parquet#1",)]  # a null id still gets a name
    own = find(tmp_path, id_column="image_id")
    assert rows(own.table(spark), "image_id") == [("p",), ("q",)]
    assert [field.name for field in own.own_columns] == ["id"]
    assert "'nope'" in error_of(tmp_path, id_column="nope")


def test_columns_are_chosen_by_name(tmp_path):
    write(tmp_path, "a.parquet", {"a": [1], "b.c": [2], "c": [3], "jpg": [b"1"]})
    assert [field.name for field in find(tmp_path, columns=("b.c", "a")).own_columns] == ["b.c", "a"]
    assert [field.name for field in find(tmp_path, drop_columns=("a",)).own_columns] == ["b.c", "c"]
    assert "'d'" in error_of(tmp_path, columns=("d",))
    assert [field.name for field in find(tmp_path, columns=("a", "c", "a")).own_columns] == ["a", "c"]


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
    assert [reference.inline for reference in source.sample(8)] == images
    places = [(f"{shard}.parquet", row) for row in (0, 1) for shard in (0, 2, 4, 6)]
    sample = replace(source, transport="reference").sample(8)
    assert [(Path(reference.file).name, reference.row) for reference in sample] == places
    read = make_locate(FetchPolicy(column="jpg"))
    assert [reference.inline and bytes(reference.inline) for reference in map(read, sample)] == images


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 99])
def test_the_first_rows_come_in_shard_order(spark, tmp_path, n):
    write(tmp_path, "0.parquet", {"key": ["a", "b"], "jpg": [b"1", b"1"]})
    write(tmp_path, "1.parquet", {"key": ["c", "d", "e"], "jpg": [b"1"] * 3})
    assert [key for (key,) in rows(find(tmp_path).head(spark, n), "key")] == list("abcde")[:n]


def test_a_url_column_gives_references_to_paths(spark, tmp_path):
    write(tmp_path, "sub/a.parquet", {"url": ["x.jpg", None], "n": [1, 2]})
    source = find(tmp_path)
    assert source.layout == "url_table"
    images = [row[IMAGE] for row in source.table(spark).orderBy("n").collect()]
    assert [(image["uri"], image["base"]) for image in images] == [
        (b"x.jpg", str(tmp_path / "sub")),
        (None, str(tmp_path / "sub")),
    ]
    assert [field.name for field in source.own_columns] == ["url", "n"]


def test_the_image_column_is_found_or_asked_for(tmp_path):
    write(tmp_path, "a.parquet", {"thumb": [b"1"], "text": ["a"]})
    text = error_of(tmp_path)
    assert "--image_column" in text
    assert "thumb" in text
    assert find(tmp_path, image_column="thumb").image_column == "thumb"
    assert str(tmp_path) in text
    assert "'nope'" in error_of(tmp_path, image_column="nope")
    assert "not binary" in error_of(tmp_path, image_column="text")


def test_an_input_without_images_says_what_is_there(tmp_path):
    assert "no such folder" in error_of(tmp_path / "missing")
    assert "no *.parquet" in error_of(tmp_path)
    write(tmp_path, "a.parquet", {"a": [1], "b": ["x"]})
    text = error_of(tmp_path)
    assert "no image column" in text
    assert "a, b" in text
    assert str(tmp_path) in text
    write(tmp_path, "a.parquet", {"url": [1], "b": ["x"]})
    assert "no image column" in error_of(tmp_path)


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(StorageError, match=rf"--input_dir {tmp_path}: bad\.parquet"):
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
    assert "rename '\\udcff.parquet'" in error_of(tmp_path)
