"""Listings, paths and URIs, and small files that are never seen half-written."""

import errno
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from spark_embed.errors import ConfigError, StorageError
from spark_embed.storage import (
    delete,
    folder_path,
    hadoop_path,
    is_below,
    joined_path,
    list_files,
    list_names,
    local_path,
    read_json,
    spark_path,
    split_s3,
    uri_scheme,
    write_json,
)


@pytest.fixture
def folder(tmp_path):
    """A data set with everything that a listing has to leave out."""
    for name in (
        "b.parquet",
        "a.parquet",
        "10.parquet",
        "9.parquet",
        "cat=2/x.parquet",
        "cat=1/y.parquet",
        "_kind=good/z.parquet",
        "deep/er/d.parquet",
        "notes.txt",
        "_SUCCESS",
        ".hidden.parquet",
        "_temporary/t.parquet",
        ".spark/s.parquet",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def paths(folder, suffix=".parquet") -> list[str]:
    return [file.path for file in list_files(str(folder), suffix)]


def test_a_listing_is_recursive_and_sorted_and_leaves_hidden_names_out(folder):
    assert paths(folder) == [
        "10.parquet",
        "9.parquet",
        "_kind=good/z.parquet",
        "a.parquet",
        "b.parquet",
        "cat=1/y.parquet",
        "cat=2/x.parquet",
        "deep/er/d.parquet",
    ]


def test_a_listing_tells_the_size(folder):
    (file,) = list_files(str(folder), ".txt")
    assert (file.path, file.n_bytes) == ("notes.txt", len("notes.txt"))


def test_a_listing_follows_links_and_ends_where_they_go_in_circles(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "linked.parquet").write_text("")
    (folder / "elsewhere").symlink_to(elsewhere)
    (folder / "deep" / "up").symlink_to(folder)
    (elsewhere / "back").symlink_to(folder)
    found = paths(folder)
    assert "elsewhere/linked.parquet" in found
    assert found.count("a.parquet") == 1
    assert not [path for path in found if "up/" in path or "back/" in path]


@pytest.mark.parametrize("target", ["nowhere", "dead.parquet"])
def test_a_link_to_a_shard_that_is_not_there_is_not_left_out_silently(folder, target):
    (folder / "dead.parquet").symlink_to(target)
    with pytest.raises(StorageError, match=r"dead\.parquet"):
        list_files(str(folder), ".parquet")


@pytest.mark.parametrize("what", ["missing", "notes.txt"])
def test_what_is_no_folder_cannot_be_listed(folder, what):
    with pytest.raises(StorageError, match=what):
        list_files(str(folder / what), ".parquet")


def test_names_are_sorted_hidden_ones_too(folder):
    assert list_names(str(folder))[:3] == [".hidden.parquet", ".spark", "10.parquet"]
    assert list_names(str(folder / "missing")) == []
    with pytest.raises(StorageError, match=r"notes\.txt"):
        list_names(str(folder / "notes.txt"))


@pytest.mark.parametrize(
    ("uri", "scheme", "path"),
    [
        ("/data/a b%20.jpg", "", "/data/a b%20.jpg"),
        ("data/a#b?c", "", "data/a#b?c"),
        ("C:x", "", "C:x"),
        ("", "", ""),
        ("file:/data/a%20b", "file", "/data/a b"),
        ("file:///data/a%23b%25", "file", "/data/a#b%"),
        ("FILE:///data", "file", "/data"),
        ("file://localhost/data", "file", "/data"),
        ("file://host/data", "file", None),
        ("file://[/data", "file", None),
        ("s3://bucket/key", "s3", None),
        ("S3A://bucket/key", "s3a", None),
        ("https://example.org/a", "https", None),
        ("git+ssh://host/a", "git+ssh", None),
        ("dbfs:/a", "dbfs", None),
        ("ipfs:Qm", "ipfs", None),
        ("12:30/a", "", "12:30/a"),
        ("photo at 12:/a", "", "photo at 12:/a"),
    ],
)
def test_uris_and_paths(uri, scheme, path):
    assert (uri_scheme(uri), local_path(uri)) == (scheme, path)


def test_a_folder_option_becomes_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert folder_path("out/../in", "--input_dir") == str(tmp_path / "in")
    assert folder_path("~/in", "--input_dir") == "/home/someone/in"
    assert folder_path("file:///data/in%20here/", "--input_dir") == "/data/in here"
    with pytest.raises(ConfigError, match="--allowed_roots ''"):  # else it would be the working folder
        folder_path("", "--allowed_roots")


@pytest.mark.parametrize(
    ("uri", "cure"),
    [
        ("gs://bucket/in", "gs: is not read; only local paths"),
        ("abfss://container@account.dfs.core.windows.net/in", "abfss: is not read"),
        ("hdfs:/in", "hdfs: is not read"),
        ("https://example.org/in", "https: is not read"),
        ("file://host/in", "another machine's file: is not read"),
        ("dbfs:/in/x", "Databricks shows it as a folder, /dbfs/in/x"),
        ("dbfs:///in/x", "Databricks shows it as a folder, /dbfs/in/x"),
        ("dbfs:/Volumes/a/b/c", "Databricks shows it as a folder, /Volumes/a/b/c"),
        ("s3:/bucket/in", "must be s3://bucket/folder"),
    ],
)
def test_a_folder_of_another_kind_is_refused_with_a_cure(uri, cure):
    with pytest.raises(ConfigError, match=re.escape("--input_dir")) as caught:
        folder_path(uri, "--input_dir")
    assert cure in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://bucket/a b%20", "s3a://bucket/a b%20/", "S3N://bucket/a b%20"])
def test_a_folder_in_s3_gets_the_scheme_of_this_spark(monkeypatch, uri):
    monkeypatch.delenv("DATABRICKS_RUNTIME_VERSION", raising=False)
    assert folder_path(uri, "--input_dir") == "s3a://bucket/a b%20"
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "18.0")
    assert folder_path(uri, "--input_dir") == "s3://bucket/a b%20"


def test_what_databricks_calls_dbfs_is_a_folder_on_every_machine():
    assert spark_path("dbfs:/Volumes/a/b/50%25%20x.parquet") == "/Volumes/a/b/50% x.parquet"
    assert spark_path("dbfs:/in/x") == "/dbfs/in/x"


def test_only_a_volume_is_given_to_spark_without_a_scheme(monkeypatch):
    monkeypatch.delenv("DATABRICKS_RUNTIME_VERSION", raising=False)
    assert hadoop_path("/Volumes/a/50% [x]") == "file:///Volumes/a/50% [x]"
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "18.0")
    assert hadoop_path("/Volumes/a/50% [x]") == "/Volumes/a/50% [x]"
    assert hadoop_path("/dbfs/in/x") == "file:///dbfs/in/x"  # else Spark would take it for dbfs:/dbfs/in/x
    assert hadoop_path("s3://bucket/x") == "s3://bucket/x"


def test_a_key_in_s3_is_taken_as_it_is():
    assert split_s3("s3a://bucket//a/b c%20/") == ("bucket", "/a/b c%20/")
    assert split_s3("s3://bucket") == split_s3("s3://bucket/") == ("bucket", "")


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///key", "s3://key:secret@bucket/a", "s3://bucket/a/../b", "s3://bucket//a"]
)
def test_a_folder_in_s3_that_cannot_be_one_is_refused(uri):
    with pytest.raises(ConfigError, match="--input_dir"):
        folder_path(uri, "--input_dir")


@pytest.mark.parametrize(
    ("folder", "path", "joined"),
    [
        ("s3a://bucket/in", "a/b.jpg", "s3a://bucket/in/a/b.jpg"),
        ("s3a://bucket/in", "../x.jpg", "s3a://bucket/x.jpg"),
        ("s3a://bucket/in", "../../../x.jpg", "s3a://bucket/x.jpg"),
        ("s3a://bucket/in", "/x.jpg", "s3a://bucket/x.jpg"),
        ("s3a://bucket/in", "s3://other/x.jpg", "s3://other/x.jpg"),
        ("/data", "a.jpg", "/data/a.jpg"),
        ("", "a.jpg", "a.jpg"),
    ],
)
def test_a_relative_path_never_leaves_its_bucket(folder, path, joined):
    assert joined_path(folder, path) == joined


@pytest.mark.parametrize(
    ("path", "below"),
    [
        ("in", True),
        ("in/a/b", True),
        ("in/missing/too", True),
        ("in/../in/a", True),
        ("in/../out", False),
        ("input", False),
        (".", False),
        ("in/link-out/x", False),
        ("link-in/x", True),
    ],
)
def test_is_below_looks_through_links(tmp_path, path, below):
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "in" / "link-out").symlink_to(tmp_path / "out")
    (tmp_path / "link-in").symlink_to(tmp_path / "in")
    assert is_below(str(tmp_path / path), str(tmp_path / "in")) is below
    assert is_below(str(tmp_path / path), str(tmp_path / "link-in") + "/") is below
    assert is_below(str(tmp_path / path), "/")


def test_json_comes_back_and_can_be_read_by_people(tmp_path):
    value = {"name": "Köln", "rows": [1, 2.5, None]}
    path = str(tmp_path / "state" / "deep" / "run.json")
    write_json(path, value)
    assert read_json(path) == value
    assert '\n  "name": "Köln"' in (tmp_path / "state" / "deep" / "run.json").read_text("utf-8")
    assert read_json(str(tmp_path / "missing.json")) is None


def test_a_bare_name_is_written_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json("run.json", [1])
    assert read_json("run.json") == [1]


@pytest.mark.parametrize("content", [b"", b'{"half": ', b"\xff\xfe"])
def test_what_is_not_json_is_an_error_with_the_path(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"run\.json"):
        read_json(str(tmp_path / "run.json"))


def test_a_reader_sees_the_old_file_or_the_new_one_never_a_part(tmp_path):
    path = str(tmp_path / "metadata.json")
    versions = [{"version": version, "padding": ["x"] * 5000} for version in range(4)]
    write_json(path, versions[0])

    def write(own):
        for _ in range(25):
            for version in own:
                write_json(path, version)

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, own) for own in (versions[:2], versions[2:])]
        while not all(writer.done() for writer in writers):
            assert read_json(path) in versions
    for writer in writers:
        writer.result()
    assert os.listdir(tmp_path) == ["metadata.json"]


FAILURES = {
    errno.ENOSPC: r"run\.json: no space left on the disk; about 1\.0 MiB more is needed\. Free some",
    errno.EDQUOT: r"run\.json: no space left on the disk; about 1\.0 MiB more is needed\. Free some",
    errno.EIO: r"run\.json: cannot be written: .*Input/output error",
}


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("code", FAILURES)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    path = str(tmp_path / "run.json")
    write_json(path, "old")
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(StorageError, match=FAILURES[code]):
        write_json(path, "new")
    assert read_json(path) == "old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_value_that_is_not_json_leaves_the_old_file_and_nothing_else(tmp_path):
    path = str(tmp_path / "run.json")
    write_json(path, "old")
    with pytest.raises(TypeError):
        write_json(path, {"rows": [1, 2, object()]})
    assert json.loads((tmp_path / "run.json").read_text()) == "old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_deleting_takes_files_folders_and_links_but_not_what_links_point_to(folder):
    (folder / "link").symlink_to(folder / "deep")
    (folder / "dead").symlink_to(folder / "nowhere")
    for name in ("link", "dead", "cat=1", "a.parquet", "missing"):
        delete(str(folder / name))
        assert not os.path.lexists(folder / name)
    assert (folder / "deep" / "er" / "d.parquet").exists()
