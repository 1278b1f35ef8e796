"""Tars as they come: every sample once, and never a sample less without a word."""

import io
import tarfile
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spark_embed.datasets.detection.not_used import NotUsed
from spark_embed.datasets.index import tars
from spark_embed.datasets.index.tars import read_tar, split_name
from spark_embed.errors import StorageError

MEMBERS = [
    ("a.jpg", b"1" * 700),
    ("a.txt", b"one"),
    ("b.JPG", b"22"),
    ("c/d.seg.png", b"333"),
    ("e.json", b"{}"),
]


def make_tar(members, tar_format=tarfile.PAX_FORMAT) -> bytes:
    """Make a tar of files; of links where what they lead to is given as text: hard ones with a '=' before."""
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tar_format, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type = tarfile.LNKTYPE if data.startswith("=") else tarfile.SYMTYPE
                member.linkname, data = data.removeprefix("="), b""
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def read(path, data=None):
    if data is not None:
        path.write_bytes(data)
    return list(read_tar(str(path), NotUsed()))


def contents(path, sample):
    """The bytes of a sample's images, or why there are none."""
    data = path.read_bytes()
    return [
        place if isinstance(place, str) else data[place[0] : place[0] + place[1]]
        for place in sample.images.values()
    ]


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
        for name, kind in (("d", tarfile.DIRTYPE), ("fifo.jpg", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
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


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=3000))
def test_random_bytes_raise_nothing_else(tmp_path, data):
    with pytest.raises(StorageError):
        read(tmp_path / "a.tar", data)


def test_a_tar_of_many_members_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "_MAX_WAITING", 100)
    path = tmp_path / "many.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(20_000):
            tar.addfile(tarfile.TarInfo(f"{number}.jpg"))
            tar.members = []
    tracemalloc.start()
    n_samples = sum(1 for _ in read_tar(str(path), NotUsed()))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_samples == 20_000
    assert peak_bytes < 250 * n_samples  # that a key has been seen: a sample takes several times as much


def test_members_that_are_apart_are_joined(tmp_path):
    images = [(f"{number}.jpg", bytes([number])) for number in range(4)]
    texts = [(f"{number}.txt", b"%d" % number) for number in (2, 0, 3, 1)]
    for members in (images + texts, texts + images):
        samples = read(tmp_path / "a.tar", make_tar(members))
        assert [sample.key for sample in samples] == [name.split(".")[0] for name, _ in members[:4]]
        for sample in samples:
            assert sample.texts == {"txt": sample.key}
            assert contents(tmp_path / "a.tar", sample) == [bytes([int(sample.key)])]


def test_no_image_is_joined_away(tmp_path):
    samples = read(tmp_path / "a.tar", make_tar([("a.1.jpg", b"1"), ("b.jpg", b"2"), ("a.2.jpg", b"3")]))
    assert [sample.key for sample in samples] == ["a", "b", "a"]


@pytest.mark.parametrize("first", ["a.jpg", "a.txt"])
def test_members_too_far_apart_are_named(tmp_path, monkeypatch, first):
    monkeypatch.setattr(tars, "_MAX_WAITING", 3)
    between = [(f"{number}.jpg", b"x") for number in range(5)]
    last = {"a.jpg": "a.txt", "a.txt": "a.jpg"}[first]
    with pytest.raises(StorageError, match=r"the members of 'a' are too far apart.*sorted by name"):
        read(tmp_path / "a.tar", make_tar([(first, b"x"), *between, (last, b"x")]))
    assert len(read(tmp_path / "a.tar", make_tar([("a.jpg", b"x"), *between, ("a.jpg", b"y")]))) == 7


def test_links_are_followed_inside_the_tar(tmp_path):
    members = [
        ("./d/1.jpg", b"one"), ("d/2.jpg", "=./d/1.jpg"), ("d/3.jpg", "1.jpg"), ("4.jpg", "d/3.jpg"),
        ("before.jpg", "late.jpg"), ("late.jpg", b"late"), ("late.txt", b"text"), ("before.txt", "late.txt"),
        ("out.jpg", "../../etc/passwd"), ("absolute.jpg", "/etc/passwd"), ("itself.jpg", "itself.jpg"),
    ]  # fmt: skip
    samples = read(tmp_path / "a.tar", make_tar(members))
    found = {sample.key: contents(tmp_path / "a.tar", sample)[0] for sample in samples}
    assert found == {
        "d/1": b"one", "d/2": b"one", "d/3": b"one", "4": b"one", "before": b"late", "late": b"late",
        "out": "a link to ../../etc/passwd, which is not in the tar",
        "absolute": "a link to /etc/passwd, which is not in the tar",
        "itself": "a link to itself.jpg, which is not in the tar",
    }  # fmt: skip
    assert next(sample.texts for sample in samples if sample.key == "before") == {"txt": "text"}


def test_tars_behind_the_end_of_one_are_read(tmp_path):
    parts = [make_tar([(f"{n}.jpg", bytes([part, n])) for n in range(2)]) for part in range(3)]
    samples = read(tmp_path / "a.tar", parts[0] + parts[1] + bytes(10_000 * 512) + parts[2])
    assert [sample.key for sample in samples] == ["0", "1"] * 3
    found = [content for sample in samples for content in contents(tmp_path / "a.tar", sample)]
    assert found == [bytes([part, n]) for part in range(3) for n in range(2)]


def test_what_is_no_tar_behind_the_end_of_one_is_told(tmp_path):
    data = make_tar([("a.jpg", b"1")])
    for junk in (b"x", b"x" * 512, make_tar([("b.jpg", b"2")])[:700]):
        with pytest.raises(StorageError, match="cannot be read as a tar"):
            read(tmp_path / "a.tar", data + junk)


def test_names_that_are_no_utf8_are_shown_and_differ(tmp_path):
    names = [name.decode(errors="surrogateescape") for name in (b"\xe9.jpg", b"\xea.jpg", b"\\xe9.jpg")]
    for tar_format in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        samples = read(tmp_path / "a.tar", make_tar([(name, b"x") for name in names], tar_format))
        assert [sample.key for sample in samples] == [r"\xe9", r"\xea", r"\x5cxe9"]


def test_members_that_look_like_images_are_counted(tmp_path):
    names = ["a.heic", "b.jxl", "c.jpg", "c.npy", "noext", "README", "n.tar", ".hidden"]
    (tmp_path / "a.tar").write_bytes(make_tar([(name, b"x") for name in names]))
    not_used = NotUsed()
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(tars, "is_image", lambda name: name.endswith(".jpg"))
        list(read_tar(str(tmp_path / "a.tar"), not_used))
    assert not_used.kinds == {
        ".heic in tars": (1, "a.heic"),
        ".jxl in tars": (1, "b.jxl"),
        "in tars without a suffix": (1, "noext"),
        ".tar in tars": (1, "n.tar"),
    }
