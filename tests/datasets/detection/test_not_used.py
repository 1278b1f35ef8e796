"""Nothing that lies in the input is left out without a word, and nobody is told of what is no data."""

import os

import pytest

from spark_embed.datasets.detection import seen
from spark_embed.datasets.detection.detect import detect
from spark_embed.errors import ConfigError


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x,y\n1,2\n")


def kinds(layout):
    return {kind: number for kind, (number, _) in layout.not_used.kinds.items()}


@pytest.fixture(params=[False, True], ids=["without pillow-heif", "with pillow-heif"])
def with_heic(request, monkeypatch):
    monkeypatch.setattr(seen, "_can_decode_heic", lambda: request.param)
    return request.param


def test_what_is_there_and_not_read_is_counted(tmp_path, with_heic):
    put(tmp_path, "a.jpg", "b.HEIC", "c.heif", "d/e.zip", "noext", "f.JPG_large", "list.csv", "a.txt")
    put(tmp_path, "_x/b.tar.gz", "_x/c.parquet", "_x/_DSC1.jpg", "_x/e.xyz")
    layout = detect(str(tmp_path), "auto", "url")
    assert layout.name == "image_folder"
    assert kinds(layout) == {
        ".zip": 1,
        "without a suffix": 1,
        ".jpg_large": 1,
        ".csv without a column 'url' (--url_column; it has x, y)": 1,
        ".txt": 1,
        ".xyz": 1,
        ".tar.gz below a name that begins with _": 1,
        ".parquet below a name that begins with _": 1,
        **({} if with_heic else {".heic": 1, ".heif": 1}),
    }
    assert ("pip install 'spark-embed[heic]' reads HEIC" in str(layout.not_used)) is not with_heic


@pytest.mark.parametrize("name", ["photos", "hf_datasets", "img2dataset/parquet", "img2dataset/webdataset"])
def test_there_is_nothing_to_say_of_what_known_tools_write(material, name):
    assert str(detect(str(material / name), "auto", "url").not_used) == ""


def test_nor_of_what_lies_beside_data(tmp_path):
    put(tmp_path, "a.parquet", "_SUCCESS", ".a.parquet.crc", "a.parquet.crc", "_metadata", "_started_12")
    put(tmp_path, "README.md", "LICENSE", "license.txt", "dataset_info.json", "00000_stats.json", "Thumbs.db")
    put(tmp_path, "_spark_metadata/0", "_change_data/0.parquet", ".git/x.tar", "a.tar.md5")
    layout = detect(str(tmp_path), "auto", "url")
    assert (layout.name, len(layout.files), kinds(layout)) == ("parquet", 1, {})


def test_text_beside_img2datasets_images_is_in_its_parquet(material):
    assert str(detect(str(material / "img2dataset/files"), "auto", "url").not_used) == ""


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.arrow", "state.json"], r"holds 1 \.arrow \(a\.arrow\): nothing to embed"),
        (["a.zip", "b.zip"], r"holds 2 \.zip \(such as a\.zip\)"),
        (["README.md"], "holds no data: nothing to embed"),
        (["list.tsv"], r"holds 1 \.tsv without a column 'url' \(--url_column; it has x, y\) \(list\.tsv\)"),
    ],
)
def test_a_refusal_says_what_is_there(tmp_path, names, said):
    put(tmp_path, *names)
    with pytest.raises(ConfigError, match=said):
        detect(str(tmp_path), "auto", "url")


def test_a_compressed_tar_is_a_tar_with_its_parquet(tmp_path):
    put(tmp_path, "a.tar.gz", "a.parquet", "b.tgz", "b.parquet", "c.tar", "d.tar.zst")
    layout = detect(str(tmp_path), "auto", "url")
    assert [file.path for file in layout.files] == ["a.tar.gz", "b.tgz", "c.tar", "d.tar.zst"]
    assert {tar: file.path for tar, file in layout.sidecars.items()} == {
        "a.tar.gz": "a.parquet",
        "b.tgz": "b.parquet",
    }


def test_one_bad_link_or_folder_stops_no_listing(tmp_path, monkeypatch):
    """As root, all folders can be listed: the system's answer is made here."""
    put(tmp_path, "a.jpg", "b/c.jpg", "closed/d.jpg")
    (tmp_path / "itself.jpg").symlink_to("itself.jpg")
    (tmp_path / "below_a_file.jpg").symlink_to("a.jpg/x")
    (tmp_path / "long.jpg").symlink_to("x" * 300)
    (tmp_path / "folder").symlink_to("nowhere")
    (tmp_path / "list.csv").symlink_to("itself.jpg")
    (tmp_path / "b/up").symlink_to("..")
    scandir = os.scandir

    def refused(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refused)
    layout = detect(str(tmp_path), "auto", "url")
    assert layout.not_used.kinds == {
        "folder that cannot be listed (Permission denied)": (1, "closed"),
        "link that leads nowhere": (2, "folder"),
    }


def test_folders_may_lie_deeper_than_paths_go(tmp_path):
    put(tmp_path, "a.jpg")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(25):  # more than PATH_MAX, 4096
        os.mkdir("d" * 200, dir_fd=descriptor)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    layout = detect(str(tmp_path), "auto", "url")
    ((kind, (number, _)),) = layout.not_used.kinds.items()
    assert (layout.name, kind, number) == (
        "image_folder",
        "folder that cannot be listed (File name too long)",
        1,
    )


class TestLinksOutOfTheFolder:
    """Wherever a link lies, what it leads to must lie in --input_dir or --allowed_roots."""

    @pytest.fixture
    def folder(self, tmp_path):
        put(tmp_path, "data/a.tar", "data/more/b.tar", "data/l.csv", "in/own.tar", "in/sub/own2.tar")
        (tmp_path / "in/a.tar").symlink_to(tmp_path / "data/a.tar")
        (tmp_path / "in/more").symlink_to(tmp_path / "data/more")
        (tmp_path / "in/l.csv").symlink_to(tmp_path / "data/l.csv")
        (tmp_path / "in/inside.tar").symlink_to("sub/own2.tar")
        return tmp_path / "in"

    def test_they_are_shards_that_cannot_be_read(self, folder):
        layout = detect(str(folder), "auto", "url")
        assert [file.path for file in layout.files] == ["inside.tar", "own.tar", "sub/own2.tar"]
        assert [shard.name for shard in layout.bad] == ["a.tar", "more/b.tar"]
        assert f"a.tar is a link to {folder.parent}/data/a.tar, outside" in layout.bad[0].reason
        assert layout.not_used.kinds == {
            "links out of the folders that may be read (--allowed_roots)": (1, "l.csv")
        }

    def test_they_are_read_where_that_is_allowed(self, folder):
        layout = detect(str(folder), "auto", "url", [str(folder.parent / "data")])
        assert len(layout.files) == 5
        assert layout.bad == ()

    def test_alone_they_are_named_with_the_option(self, folder):
        for name in ("own.tar", "inside.tar", "sub/own2.tar"):
            (folder / name).unlink()
        with pytest.raises(ConfigError, match=r"a\.tar is a link to .*/data/a\.tar, .*--allowed_roots"):
            detect(str(folder), "auto", "url")


def test_the_hub_caches_own_links_may_be_followed(tmp_path):
    from spark_embed.config import Config
    from spark_embed.datasets import find_layout

    snapshot = tmp_path / "datasets--org--name/snapshots/0a1b"
    put(tmp_path, "datasets--org--name/blobs/abc")
    (snapshot / "data").mkdir(parents=True)
    (snapshot / "data/0.parquet").symlink_to("../../../blobs/abc")
    for root in (snapshot, snapshot / "data"):
        layout = find_layout(Config(input_dir=str(root), output_dir="out"))
        assert (len(layout.files), layout.bad) == (1, ())
