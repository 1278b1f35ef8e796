"""Tars as they come: every sample once, and never a sample less without a word."""

import io
import tarfile
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spark_embed.datasets.index.tars import read_tar, split_name
from spark_embed.errors import StorageError

SUFFIXES = (".jpg", ".png")
MEMBERS = [
    ("a.jpg", b"1" * 700),
    ("a.txt", b"one"),
    ("b.JPG", b"22"),
    ("c/d.seg.png", b"333"),
    ("e.json", b"{}"),
]


def make_tar(members, tar_format=tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def read(path, data=None):
    if data is not None:
        path.write_bytes(data)
    return list(read_tar(str(path), SUFFIXES))


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_samples_are_grouped_by_key_and_images_are_where_they_say(tmp_path, tar_format):
    long_name = "x" * 60 + "/" + "é" * 30 + ".jpg"
    data = make_tar([*MEMBERS, (long_name, b"4444")], tar_format)
    samples = read(tmp_path / "a.tar", data)
    assert [sample.key for sample in samples] == ["a", "b", "c/d", "e", long_name.removesuffix(".jpg")]
    assert samples[0].texts == {"txt": "one"}
    found = [
        data[offset : offset + length] for sample in samples for offset, length in sample.images.values()
    ]
    assert found == [b"1" * 700, b"22", b"333", b"4444"]


def test_a_key_that_comes_again_is_another_sample(tmp_path):
    samples = read(
        tmp_path / "a.tar", make_tar([("a.jpg", b"1"), ("a.jpg", b"2"), ("b.jpg", b"3"), ("a.jpg", b"4")])
    )
    assert [sample.key for sample in samples] == ["a", "a", "b", "a"]


def test_what_is_no_sample_is_left_out(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in (
            ("d", tarfile.DIRTYPE),
            ("link.jpg", tarfile.SYMTYPE),
            ("fifo.jpg", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    assert read(tmp_path / "a.tar", buffer.getvalue()) == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.seg.PNG", ("a/b", "seg.png")),
        ("./a.jpg", ("a", "jpg")),
        ("a.b/c.jpg", ("a.b/c", "jpg")),
        (".hidden", ("", "")),
        ("README", ("", "")),
    ],
)
def test_names_are_split_as_webdataset_does(path, expected):
    assert split_name(path) == expected


def test_a_damaged_header_is_no_end(tmp_path):
    """The standard library takes it for one."""
    data = bytearray(make_tar([(f"{number}.jpg", b"x" * 600) for number in range(5)]))
    data[2 * 1536 + 20] ^= 0xFF
    with pytest.raises(StorageError, match="damaged at byte 3072"):
        read(tmp_path / "a.tar", bytes(data))


@pytest.mark.parametrize("n_bytes", [0, 100, 512, 900, 1536, 1600, 3072])
def test_a_tar_that_is_cut_off_is_told(tmp_path, n_bytes):
    data = make_tar([(f"{number}.jpg", b"x" * 600) for number in range(2)])
    with pytest.raises(StorageError, match=r"a\.tar: cannot be read as a tar"):
        read(tmp_path / "a.tar", data[:n_bytes])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 6000), st.binary(min_size=1, max_size=20)), min_size=1, max_size=4),
    st.integers(0, 12_000),
)
def test_broken_bytes_raise_nothing_else(tmp_path, changes, n_bytes):
    data = bytearray(make_tar(MEMBERS))
    for at, new in changes:
        data[at : at + len(new)] = new
    try:
        samples = read(tmp_path / "a.tar", bytes(data[:n_bytes]))
    except StorageError:
        return
    assert all(offset + length <= n_bytes for sample in samples for offset, length in sample.images.values())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=3000))
def test_random_bytes_raise_nothing_else(tmp_path, data):
    with pytest.raises(StorageError):
        read(tmp_path / "a.tar", data)


def test_a_tar_of_many_members_is_not_held(tmp_path):
    path = tmp_path / "many.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(20_000):
            tar.addfile(tarfile.TarInfo(f"{number}.jpg"))
            tar.members = []
    tracemalloc.start()
    n_samples = sum(1 for _ in read_tar(str(path), SUFFIXES))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_samples == 20_000
    assert peak_bytes < 1 << 20
