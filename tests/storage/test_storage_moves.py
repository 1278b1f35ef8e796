"""What is deleted, copied and moved, on a disk and in S3; and what only S3 has: uploads nobody completed."""

import errno
import itertools
import os
import random
from contextlib import contextmanager, suppress

import pytest
from botocore.exceptions import ClientError

from spark_embed import storage
from spark_embed.errors import StorageError
from spark_embed.storage.s3 import store as s3
from spark_embed.storage.s3.errors import S3Error

from support.storage_places import InS3

pytestmark = pytest.mark.usefixtures("short_s3_pauses")


class TestDeletion:
    def test_takes_an_object_or_a_folder_and_nothing_beside_it(self, place):
        for name in ("a/1", "a/b/2", "ab", "a.txt", "c"):
            place.put(name)
        for name in ("a", "c", "missing"):
            storage.delete(f"{place.path}/{name}")
        assert set(place.content()) == {"ab", "a.txt"}
        storage.delete_file(f"{place.path}/ab")
        storage.delete_file(f"{place.path}/missing")
        assert set(place.content()) == {"a.txt"}

    def test_takes_markers_of_folders_too(self, s3_server, bucket, s3_root):
        for key in ("out/", "out/a/", "out/a/x", "out/a ü+%/&<>"):
            s3_server.direct.put_object(Bucket=bucket, Key=key, Body=b"")
        storage.delete(s3_root)
        assert s3_server.content(bucket) == {}

    def test_of_a_file_leaves_what_is_below_its_name(self, s3_server, bucket, s3_root):
        s3_server.fill(bucket, ["out/a/1"])
        storage.delete_file(f"{s3_root}/a")
        assert set(s3_server.content(bucket)) == {"out/a/1"}

    def test_of_thousands_asks_once_for_each_thousand(self, s3_server, bucket, s3_root, bad_s3):
        s3_server.fill(bucket, [f"out/{n % 3}/{n}" for n in range(2100)])
        s3_server.fill(bucket, ["outside"])
        storage.delete(s3_root)
        assert set(s3_server.content(bucket)) == {"outside"}
        assert bad_s3.requests["DeleteObjects"] == 3

    def test_of_some_that_the_store_was_too_busy_for_is_tried_again(
        self, s3_server, bucket, s3_root, monkeypatch
    ):
        """It answers 200, and says so of single keys."""
        s3_server.fill(bucket, ["out/a", "out/b"])
        client = s3.client_for(bucket)
        busy = {"Errors": [{"Key": "out/a", "Code": "InternalError", "Message": "We encountered an error."}]}

        def delete_objects(**asked):
            s3_server.direct.delete_object(Bucket=bucket, Key="out/b")
            return busy

        monkeypatch.setattr(client, "delete_objects", delete_objects)
        storage.delete(s3_root)
        assert s3_server.content(bucket) == {}

    @pytest.mark.parametrize(("status", "code"), [(400, "MissingContentMD5"), (501, "NotImplemented")])
    def test_goes_one_by_one_where_a_store_knows_no_other_way(
        self, s3_server, bucket, s3_root, monkeypatch, status, code
    ):
        def delete_objects(**asked):
            answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
            raise ClientError(answer, "DeleteObjects")

        s3_server.fill(bucket, ["out/a", "out/b", "outside"])
        monkeypatch.setattr(s3.client_for(bucket), "delete_objects", delete_objects)
        storage.delete(s3_root)
        assert set(s3_server.content(bucket)) == {"outside"}

    def test_that_is_denied_is_told(self, s3_server, bucket, s3_root, monkeypatch):
        s3_server.fill(bucket, ["out/a", "out/b"])
        user = s3_server.make_user("MARKEDWHOMAYREAD", "MARKED-SECRET-OF-WHO-MAY-READ")
        for action in ("s3:GetObject", "s3:ListBucket"):
            s3_server.allow(bucket, user.access_key, action=action)
        user.set_environment(monkeypatch)
        denied = f"{s3_root}: cannot be deleted: access denied.*s3:DeleteObject"
        with pytest.raises(StorageError, match=denied):
            storage.delete(s3_root)
        assert set(s3_server.content(bucket)) == {"out/a", "out/b"}


class TestCopies:
    def test_of_a_folder_or_a_file(self, place):
        for name in ("a/1", "a/b ü+%/2", "c"):
            place.put(name)
        storage.copy_tree(f"{place.path}/a", f"{place.path}/x/a")
        storage.copy_tree(f"{place.path}/c", f"{place.path}/x/c")
        storage.copy_tree(f"{place.path}/missing", f"{place.path}/x/d")
        assert place.content() == {
            **dict.fromkeys(("a/1", "x/a/1"), "a/1"),
            **dict.fromkeys(("a/b ü+%/2", "x/a/b ü+%/2"), "a/b ü+%/2"),
            **dict.fromkeys(("c", "x/c"), "c"),
        }

    def test_leave_markers_of_folders_out(self, s3_server, bucket, s3_root):
        for key in ("out/a/", "out/a/b/", "out/a/b/x"):
            s3_server.direct.put_object(Bucket=bucket, Key=key, Body=b"")
        storage.copy_tree(f"{s3_root}/a", f"{s3_root}/copy")
        assert set(s3_server.content(bucket, "out/copy/")) == {"b/x"}

    def test_of_what_is_large_are_made_by_the_store(self, s3_server, bucket, s3_root, bad_s3):
        body = random.Random(1).randbytes(9 << 20)
        s3_server.direct.put_object(Bucket=bucket, Key="out/a", Body=body)
        storage.copy_tree(f"{s3_root}/a", f"{s3_root}/b")
        assert s3_server.content(bucket, "out/b") == {"": body}
        assert not bad_s3.requests.keys() & {"PutObject", "UploadPart", "GetObject"}


OLD_FOLDER = {"d/1": "old 1", "d/2": "old 2", "d/sub/3": "old 3"}
OLD_FILE = {"d": "old"}


class TestMakingWay:
    """What will be replaced is aside until the new is listed."""

    @pytest.mark.parametrize("for_folder", [False, True])
    @pytest.mark.parametrize("old", [{}, OLD_FILE, OLD_FOLDER], ids=["nothing", "file", "folder"])
    def test_there_and_back(self, place, old, for_folder):
        for name, text in old.items():
            place.put(name, text)
        path, aside = f"{place.path}/d", f"{place.path}/state/aside/d"
        storage.make_way(path, aside, for_folder=for_folder)
        storage.write_text(f"{path}/new" if for_folder else path, "new")
        if old and not (for_folder and old is OLD_FOLDER):  # that one takes files in beside its own
            assert storage.exists(aside)
            storage.put_back(aside, path)
            assert place.content() == old
        else:
            assert not storage.exists(aside)

    @pytest.mark.parametrize("way", ["there", "back"])
    @pytest.mark.parametrize(
        ("old", "for_folder"), [(OLD_FILE, False), (OLD_FILE, True), (OLD_FOLDER, False)]
    )
    def test_cut_off_anywhere_loses_nothing(self, s3_server, bucket, old, for_folder, way):
        for n_writes in itertools.count():
            place = InS3(s3_server, s3_server.make_bucket())
            for name, text in old.items():
                place.put(name, text)
            path, aside = f"{place.path}/d", f"{place.path}/state/aside/d"
            if way == "back":
                storage.make_way(path, aside, for_folder=for_folder)
            with cut_off_after(n_writes) as was_cut:
                if way == "there":
                    storage.make_way(path, aside, for_folder=for_folder)
                else:
                    storage.put_back(aside, path)
            if storage.exists(aside):
                storage.put_back(aside, path)
            assert place.content() == old, f"after {n_writes} writes"
            if not was_cut:
                break
        assert n_writes > 0


@contextmanager
def cut_off_after(n_writes: int):
    """Let the store do nothing more after so many writes; yields what it was asked for then, a list."""
    left, was_cut, make = iter(range(n_writes)), [], s3.client_for

    class Cut:
        def __init__(self, client):
            self._client = client

        def __getattr__(self, name):
            if name in ("copy", "delete_object", "delete_objects") and next(left, None) is None:
                was_cut.append(name)
                raise S3Error("cut off")
            return getattr(self._client, name)

    with pytest.MonkeyPatch.context() as patch, suppress(StorageError):
        patch.setattr(s3, "client_for", lambda bucket: Cut(make(bucket)))
        yield was_cut


def test_uploads_are_given_up_below_a_path_only(s3_server, bucket, s3_root):
    client = s3_server.direct
    for key in ("out/a", "out/a/b", "out/ab", "out2/a", "other"):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    assert storage.delete_uploads(f"{s3_root}/a") == 2
    assert s3_server.uploads(bucket) == ["other", "out/ab", "out2/a"]
    assert storage.delete_uploads(s3_root) == 1
    assert s3_server.uploads(bucket) == ["other", "out2/a"]


def test_uploads_of_who_may_not_list_them_stop_nobody(s3_server, bucket, s3_root, monkeypatch):
    s3_server.make_user("MARKEDWHOMAYNOTHING", "MARKED-SECRET-OF-NOBODY").set_environment(monkeypatch)
    assert storage.delete_uploads(s3_root) == 0


def test_what_a_file_system_cannot_rename_is_copied(tmp_path, monkeypatch):
    """As Databricks' volumes; there modes and times cannot be set either."""

    def refuse(*_, **__):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    for name in ("rename", "replace", "link", "chmod", "utime"):
        monkeypatch.setattr(os, name, refuse)
    out, aside = tmp_path / "out", tmp_path / "aside/1"
    storage.write_json(str(out / "a/x.json"), 1)
    storage.write_json(str(out / "a/x.json"), 2)
    storage.make_way(str(out), str(aside), for_folder=False)
    assert (out.exists(), storage.read_json(str(aside / "a/x.json"))) == (False, 2)
    storage.put_back(str(aside), str(out))
    storage.copy_tree(str(out), str(aside))
    for folder in (out, aside):
        assert [path.name for path in folder.rglob("*") if path.is_file()] == ["x.json"]
        assert storage.read_json(str(folder / "a/x.json")) == 2
