"""Ranges of bytes of files: on many threads, of many files, and never of a file that has changed."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from spark_embed.errors import StorageError
from spark_embed.inference.fetch.ranges import RangeReader
from spark_embed.storage import file_version


def version_of(path) -> str:
    status = os.stat(path)
    return file_version(status.st_size, status.st_mtime_ns)


def test_many_threads_read_many_files_and_few_stay_open(tmp_path):
    places = []
    for number in range(12):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(bytes([number]) * 1000)
        places += [(str(path), number, version_of(path))] * 20
    reader = RangeReader()
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda place: reader.read(place[0], 7, 90, place[2]), reversed(places)))
    assert parts == [bytes([number]) * 90 for _, number, _ in reversed(places)]
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 4
    assert reader.read(places[0][0], 0, 0, places[0][2]) == b""


def test_a_file_that_has_changed_or_ends_too_soon_is_noticed(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"x" * 100)
    planned = version_of(path)
    with pytest.raises(StorageError, match="ends before byte 101"):
        RangeReader().read(path.as_uri(), 1, 100, planned)
    path.write_bytes(b"y" * 90)
    with pytest.raises(StorageError, match="changed"):
        RangeReader().read(path.as_uri(), 1, 10, planned)


@pytest.mark.parametrize("uri", ["/nowhere/a.tar", "gs://bucket/a.tar"])
def test_what_cannot_be_reached_is_an_oserror(uri):
    with pytest.raises(OSError):
        RangeReader().read(uri, 0, 1, "1-1")
