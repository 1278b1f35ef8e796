"""The image column by reference: the right bytes, whatever the file's shape, in bounded memory."""

import os
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.errors import StorageError
from spark_embed.inference.fetch.rows import RowReader
from spark_embed.storage import file_version, paths

from support.shard_files import break_pages


def version_of(path) -> str:
    status = os.stat(path)
    return file_version(status.st_size, status.st_mtime_ns)


def read(path, rows, column="jpg"):
    reader = RowReader(column)
    values = [reader.read(path.as_uri(), row, version_of(path))[0] for row in rows]
    return [None if value is None else bytes(value) for value in values]


@pytest.fixture
def path(tmp_path):
    """1,000 rows in row groups of 300, every seventh null."""
    values = [None if row % 7 == 0 else b"%d" % row * 50 for row in range(1000)]
    path = tmp_path / "a b%20c.parquet"
    pq.write_table(pa.table({"n": range(1000), "jpg": values}), path, row_group_size=300)
    return path


def expected(rows):
    return [None if row % 7 == 0 else b"%d" % row * 50 for row in rows]


@pytest.mark.parametrize(
    "rows",
    [range(1000), range(0, 1000, 13), [999], [599, 600, 299, 300], [5, 5, 4], range(310, 320), []],
    ids=["all", "some", "last", "across groups", "backwards", "inside", "none"],
)
def test_every_row_is_its_own(path, rows):
    assert read(path, rows) == expected(rows)


def test_rows_of_several_files_may_alternate(path, tmp_path):
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"jpg": pa.array([b"x", b"y"], pa.large_binary())}), other)
    reader = RowReader("jpg")
    places = [(path, 1), (other, 0), (path, 2), (other, 1)]
    got = [bytes(reader.read(p.as_uri(), row, version_of(p))[0]) for p, row in places]
    assert got == [b"1" * 50, b"x", b"2" * 50, b"y"]


def test_a_file_without_the_column_or_with_nothing_in_it_gives_nulls(tmp_path):
    for number, table in enumerate([pa.table({"n": [1]}), pa.table({"jpg": pa.nulls(1)})]):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(table, path)
        assert read(path, [0]) == [None]


def test_a_column_of_hugging_face_images_has_bytes_or_a_path(tmp_path):
    images = [{"bytes": b"1", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, {"bytes": b"3"}, None, {}]
    path = tmp_path / "hf.parquet"
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, struct)}), path, row_group_size=2)
    reader = RowReader("image")
    got = [reader.read(path.as_uri(), row, version_of(path)) for row in range(5)]
    assert [data and bytes(data) for data, _ in got] == [b"1", None, b"3", None, None]
    assert [text for _, text in got] == ["a.jpg", "b.jpg", None, None, None]


def test_a_file_that_changes_is_noticed(path):
    planned = version_of(path)
    reader = RowReader("jpg")
    assert reader.read(path.as_uri(), 1, planned)[0] is not None
    pq.write_table(pa.table({"jpg": [b"other"] * 1000}), path)
    with pytest.raises(StorageError, match="changed"):
        reader.read(path.as_uri(), 900, planned)  # in the next row group
    with pytest.raises(StorageError, match="changed"):
        RowReader("jpg").read(path.as_uri(), 1, planned)


def test_in_a_volume_whose_clock_is_another_than_sparks_a_file_is_known_by_its_size(path, monkeypatch):
    monkeypatch.setattr(paths, "_VOLUMES", f"{path.parent}/")
    uri, n_bytes = f"dbfs:{quote(str(path))}", path.stat().st_size
    assert RowReader("jpg").read(uri, 1, f"{n_bytes}-1")[0] is not None
    with pytest.raises(StorageError, match="changed"):
        RowReader("jpg").read(uri, 1, f"{n_bytes + 1}-1")


def test_what_cannot_be_reached_is_an_oserror_so_that_bytes_can_travel_through_spark(tmp_path):
    for uri in (f"file:{tmp_path}/gone.parquet", "gs://bucket/a.parquet"):
        with pytest.raises(OSError):
            RowReader("jpg").read(uri, 0, "1-1")


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(StorageError, match=r"broken\.parquet"):
        read(path, [0])


def test_broken_pages_are_an_error_of_the_file_and_not_of_the_way_to_it(path):
    """Through Spark it would be no better."""
    break_pages(path)
    with pytest.raises(StorageError) as caught:
        read(path, [0])
    assert str(caught.value).startswith(f"{path.as_uri()}: row 0 cannot be read: ")


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_a_large_row_group_is_streamed(tmp_path):
    path = tmp_path / "large.parquet"
    row = os.urandom(1 << 20)
    schema = pa.schema([("jpg", pa.binary())])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        writer.write_table(pa.table({"jpg": [row] * 200}, schema))
    # In a process of its own: this one has held other tests' memory.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        n_bytes, grown = pool.submit(read_all, path.as_uri(), version_of(path), 200).result()
    assert n_bytes == 200 << 20
    assert grown < 100_000


def read_all(uri, version, n_rows):
    """Return the bytes of all rows together, and by how many kilobytes the peak of memory has grown."""
    reader = RowReader("jpg")
    reader.read(uri, 0, version)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n_bytes = sum(len(reader.read(uri, row, version)[0]) for row in range(n_rows))
    return n_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
