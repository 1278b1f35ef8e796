"""Shards whose types differ are one table: no value changes, and Spark reads what our schema says."""

import datetime
import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chispa import assert_df_equality

from spark_embed.spark.settings import settings
from spark_embed.spark.types import spark_type

from support.shard_files import error_of, find, rows, write
from support.sources import table_of


@pytest.mark.matrix
def test_shards_whose_types_differ_are_read_as_one_table(spark, tmp_path):
    """pandas writes a column without values as null; a narrower number fits into a wider one."""
    write(tmp_path, "0.parquet", {"n": pa.array([1], pa.int32()), "t": pa.nulls(1), "jpg": [b"1"]})
    write(tmp_path, "1.parquet", {"n": pa.array([2], pa.uint8()), "t": ["text"], "jpg": [b"1"], "only": [5]})
    write(tmp_path, "2.parquet", {"n": [1.5], "t": pa.array(["d"]).dictionary_encode(), "jpg": pa.nulls(1)})
    source = find(tmp_path)
    assert rows(table_of(spark, source).fillna(0, ["only"]).fillna("-", ["t"]), "n", "t", "only") == [
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
    table = table_of(spark, find(tmp_path)).orderBy("shard", "shard_row")
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
        assert rows(table_of(spark, find(tmp_path)), "image_id") == [("1.0",), ("1.0",)]


@pytest.mark.matrix
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
    ours = table_of(spark, find(tmp_path)).select([f"`{name}`" for name in types])
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
    assert table_of(spark, find(tmp_path, drop_columns=("t",))).count() == 1


@pytest.mark.matrix
def test_the_timestamps_of_sparks_own_writer_are_read_as_spark_reads_them(spark, tmp_path):
    text = "timestamp'1969-07-20 20:17:40.123456'"
    written = spark.sql(
        f"select {text} t, array({text}) a, named_struct('n', 1, 'm', map('k', {text})) s, binary('1') jpg"
    )
    with settings(spark, {"spark.sql.parquet.outputTimestampType": "INT96"}):
        written.coalesce(1).write.parquet(str(tmp_path / "in"))
    (file,) = (tmp_path / "in").glob("*.parquet")
    assert pq.read_metadata(file).schema.column(0).physical_type == "INT96"
    ours, given = table_of(spark, find(tmp_path / "in")).select("t", "a", "s"), written.select("t", "a", "s")
    assert ours.schema.simpleString() == given.schema.simpleString()
    assert ours.collect() == given.collect()
