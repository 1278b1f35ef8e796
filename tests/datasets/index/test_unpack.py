"""Compressed tars: what is in them, and what is said of those that are broken or would fill the disk."""

import bz2
import gzip
import lzma
import tracemalloc

import pyarrow as pa
import pytest

from spark_embed.datasets.detection.not_used import NotUsed
from spark_embed.datasets.index import unpack
from spark_embed.datasets.index.make import open_index, write_index
from spark_embed.datasets.index.rows import IndexTask
from spark_embed.datasets.index.tars import index_tar
from spark_embed.errors import StorageError
from spark_embed.storage import StoredFile

from support.shard_files import write_tar


def zstd(data):
    return pa.compress(data, "zstd", asbytes=True)


def rows_of(root, name):
    """What the rows of a tar say, and what is not used of it."""
    not_used = NotUsed()
    task = IndexTask("webdataset", str(root), StoredFile(name, 1), unpacked=str(root / "unpacked.tar"))
    table = pa.concat_tables(rows.table for rows in index_tar(task, not_used))
    return table.to_pylist(), not_used


def content(root, row):
    """The bytes of a row's image, or why there are none."""
    place = row["__image__"]
    if place["missing"]:
        return place["missing"]
    data = (root / place["file"].decode(errors="surrogateescape")).read_bytes()  # absolute, or of the index
    return data[place["offset"] :][: place["length"]]


@pytest.fixture
def plain(tmp_path):
    write_tar(tmp_path / "made.tar", [("a.jpg", b"1" * 700), ("a.txt", b"one"), ("b.png", b"22")])
    data = (tmp_path / "made.tar").read_bytes()
    (tmp_path / "made.tar").unlink()
    return data


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("a.tar.gz", gzip.compress),
        ("a.tgz", lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:])),  # as pigz does
        ("a.tar", gzip.compress),  # whatever it is called
        ("a.tgz", bytes),
        ("a.tar.bz2", bz2.compress),
        ("a.tar.xz", lzma.compress),
        ("a.tar.zst", lambda data: zstd(data[:1000]) + zstd(data[1000:])),
    ],
)
def test_a_compressed_tar_gives_the_same_rows(tmp_path, plain, name, compress):
    (tmp_path / name).write_bytes(compress(plain))
    rows, _ = rows_of(tmp_path, name)
    assert [(row["key"], row["txt"], content(tmp_path, row)) for row in rows] == [
        ("a", "one", b"1" * 700),
        ("b", None, b"22"),
    ]
    assert {row["__shard__"] for row in rows} == {name}


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstd])
def test_one_that_is_cut_off_or_damaged_is_told_and_leaves_nothing(tmp_path, plain, compress):
    data = compress(plain)
    for broken in (data[: len(data) // 2], data[:20] + b"\x55\xaa\x55" + data[23:], data[:8]):
        (tmp_path / "a.tar.gz").write_bytes(broken)
        with pytest.raises(StorageError, match=r"a\.tar\.gz: cannot be (unpacked|read as a tar)"):
            rows_of(tmp_path, "a.tar.gz")
        (tmp_path / "unpacked.tar").unlink(missing_ok=True)
        assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "_FREE_BYTES", 8 << 20)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(bytes(32 << 20)))
    with pytest.raises(StorageError, match="more than 100 times its size"):
        rows_of(tmp_path, "a.tar.gz")


def test_unpacking_holds_little(tmp_path, plain):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(bytes(20 << 20)))
    tracemalloc.start()
    unpack.unpack(str(tmp_path / "a.tar.gz"), str(tmp_path / "to"))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "to").stat().st_size == 20 << 20
    assert peak_bytes < 5 << 20


def test_what_is_left_out_is_in_the_index(tmp_path, plain):
    write_tar(tmp_path / "a.tar", [("a.1.jpg", b"1"), ("a.2.jpg", b"2"), ("b.jxl", b"3")])
    task = IndexTask("webdataset", str(tmp_path), StoredFile("a.tar", 1))
    not_used = NotUsed()
    write_index(index_tar(task, not_used), str(tmp_path / "index.parquet"), None, not_used)
    assert open_index(str(tmp_path), [("index.parquet", "a.tar", "1")]).not_used.kinds == {
        "images in tars whose key has another": (1, "a.2.jpg in a.tar"),
        ".jxl in tars": (1, "b.jxl in a.tar"),
    }


@pytest.mark.parametrize(
    ("path", "n_rows", "left_out"),
    [
        ("01-tar-dots/a.tar", 4, {"images in tars whose key has another": (2, "img_0.75.jpg in a.tar")}),
        ("02-tar-nonadjacent/a.tar", 4, {}),
        ("03-tar-hardlink/a.tar", 5, {}),
        ("04b-tar-latin1-name/b.tar", 2, {}),
        ("05-targz/a.tar.gz", 3, {}),
        ("05-targz/b.tgz", 3, {}),
        ("05b-gz-named-tar/a.tar", 3, {}),
        ("05d-tar-and-targz/b.tar.gz", 3, {}),
        ("06b-tar-concatenated/all.tar", 6, {}),
    ],
)
def test_tars_that_were_found_in_the_wild(material, tmp_path, path, n_rows, left_out):
    folder, _, name = path.partition("/")
    (tmp_path / name).write_bytes((material / "found" / folder / name).read_bytes())
    rows, not_used = rows_of(tmp_path, name)
    assert len(rows) == n_rows
    assert not_used.kinds == left_out
    assert all(content(tmp_path, row)[:2] == b"\xff\xd8" for row in rows)  # a JPEG
    if "nonadjacent" in path:
        assert [row["txt"] for row in rows] == [f"caption {number}" for number in range(4)]
    if "hardlink" in path:
        images = [content(tmp_path, row) for row in rows]
        assert images[0] == images[1] == images[2]
        assert images[3] == images[4] != images[0]


def test_a_pointer_of_git_lfs_is_called_one(material, tmp_path):
    (tmp_path / "a.tar").write_bytes((material / "found/33c-lfs-tar/a.tar").read_bytes())
    with pytest.raises(StorageError, match=r"a Git LFS pointer.*git lfs pull"):
        rows_of(tmp_path, "a.tar")
