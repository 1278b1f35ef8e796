"""Pages that Spark's reader lacks: read in another way, or refused before anything runs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.config import Config
from spark_embed.datasets import find_layout
from spark_embed.datasets.catalogue import Catalogue, read_catalogue, write_catalogue
from spark_embed.datasets.open import identified, shard_source
from spark_embed.datasets.pages import find_odd_pages
from spark_embed.datasets.units import Unit
from spark_embed.spark.settings import settings, table_settings

from support.shard_files import error_of, find, rows, write

SPLIT = "BYTE_STREAM_SPLIT"
COLUMNS = {
    "key": ["a", "b", "c"],
    "n": pa.array([1, 2, 3], pa.int32()),
    "f.x": [0.5, None, 2.5],
    "deep": pa.array([[{"y": 1.5}], [], None], pa.list_(pa.struct({"y": pa.float32()}))),
    "jpg": [b"1", b"2", b"3"],
}
SPLIT_COLUMNS = {"n": SPLIT, "f.x": SPLIT, "deep.list.element.y": SPLIT}


def write_split(folder, name="a.parquet", **options):
    write(folder, name, COLUMNS, column_encoding=SPLIT_COLUMNS, use_dictionary=False, **options)


def test_the_columns_of_odd_pages_are_known_by_their_names(tmp_path):
    write_split(tmp_path, row_group_size=2)
    write(tmp_path, "b.parquet", COLUMNS, compression={"key": "brotli", "deep.list.element.y": "brotli"})
    found = [pq.read_metadata(tmp_path / f"{name}.parquet") for name in "ab"]
    found = [dict(find_odd_pages(footer, list(COLUMNS))) for footer in found]
    assert found == [dict.fromkeys(["n", "f.x", "deep"], SPLIT), dict.fromkeys(["key", "deep"], "BROTLI")]


@pytest.mark.parametrize("transport", ["reference", "bytes"])
def test_split_byte_streams_are_read_row_by_row(spark, tmp_path, transport):
    """And whole shards as well as parts of them, beside shards that have none."""
    write_split(tmp_path, row_group_size=2)
    write(tmp_path, "b.parquet", COLUMNS)
    source = replace(find(tmp_path), transport=transport)
    assert source.needs_plain_reader
    units = [Unit(source.shards[0], 1, 2), Unit(source.shards[1], 0, 3)]
    with settings(spark, table_settings(1000, plain_reader=source.needs_plain_reader)):
        table = source.table(spark, units)
        read = rows(table, "shard", "shard_row", "n", "f.x")
        deep = {
            row["shard_row"]: row["deep"]
            for row in table.where("shard = 'b.parquet'").drop("__image__").collect()
        }
    whole = [(row, row + 1, COLUMNS["f.x"][row]) for row in range(3)]
    assert read == [("a.parquet", *row) for row in whole[1:]] + [("b.parquet", *row) for row in whole]
    assert deep == {0: [(1.5,)], 1: [], 2: None}
    assert not find(tmp_path, drop_columns=("n", "f.x", "deep")).needs_plain_reader


def test_what_spark_cannot_decompress_is_named_with_the_cure_that_helps(spark, tmp_path):
    write(tmp_path, "a.parquet", {"key": ["a"], "jpg": [b"1"]})
    write(tmp_path, "b.parquet", {"key": ["b"], "n": [1], "jpg": [b"2"]}, compression="brotli")
    text = error_of(tmp_path)
    assert "column 'key' of b.parquet is compressed with BROTLI" in text
    assert "--drop_columns key,n" in text
    source = find(tmp_path, drop_columns=("key", "n"))
    assert source.transports("auto") == ["reference"]
    assert source.id is None
    text = error_of(tmp_path, drop_columns=("key", "n"), image_transport="bytes")
    assert "'jpg' of b.parquet" in text
    assert "--image_transport reference" in text


def test_a_catalogue_keeps_them_and_an_older_one_is_filled(tmp_path):
    catalogue = Catalogue()
    write_split(tmp_path)
    source = find(tmp_path)
    (shard,) = source.shards
    config = Config(input_dir=str(tmp_path), output_dir="unused")
    shard_source(config, identified(None, find_layout(config), catalogue, verify=False), catalogue)
    path = str(tmp_path / "shards")
    write_catalogue(catalogue, path)
    assert read_catalogue(path).entries == catalogue.entries
    assert catalogue.entries["a.parquet"].odd_pages == shard.odd_pages
    pq.write_table(pq.read_table(path).drop_columns(["group_rows"]), path)
    older = read_catalogue(path)
    assert older.entries["a.parquet"].group_rows is None
    source = shard_source(config, identified(None, find_layout(config), older, verify=False), older)
    assert source.shards == (shard,)


@pytest.mark.parametrize(
    ("name", "options"),
    [("08c-duckdb-v2", {}), ("09e-bss-float", {}), ("09-brotli", {"drop_columns": ("key", "caption")})],
)
def test_other_writers_shards_are_embedded_with_all_their_columns(embed, material, name, options):
    _, embeddings, errors = embed(material / "found" / name, **options)
    wanted = pd.read_parquet(material / "found" / name / "a.parquet").drop(
        columns=["jpg", *options.get("drop_columns", ())]
    )
    assert (len(embeddings), len(errors)) == (len(wanted), 0)
    assert np.isfinite(np.stack(embeddings["embedding"])).all()
    got = embeddings.sort_values("shard_row", ignore_index=True)[list(wanted.columns)]
    pd.testing.assert_frame_equal(got, wanted, check_dtype=False)
