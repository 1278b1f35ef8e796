"""The same operations on a disk and in S3, and what only S3 has: markers, pages, uploads, lost answers."""

import itertools
import json
import os
import random
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from conftest import PATIENCE_S

from spark_embed import storage
from spark_embed.errors import NoSpaceError, StorageError
from spark_embed.storage import s3, s3_upload
from spark_embed.storage.s3_errors import S3Error, S3PassingError

pytestmark = pytest.mark.usefixtures("short_s3_pauses")


@pytest.fixture
def root(bucket) -> str:
    """A folder in S3 that nothing is in yet."""
    return f"s3a://{bucket}/out"


class OnDisk:
    """A folder, and what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "in")
        (path / "in").mkdir()

    def put(self, name: str, text: str | None = None) -> None:
        path = Path(self.path, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name if text is None else text)

    def content(self) -> dict[str, str]:
        files = (path for path in Path(self.path).rglob("*") if path.is_file())
        return {path.relative_to(self.path).as_posix(): path.read_text() for path in files}


class InS3:
    """The same in a bucket."""

    def __init__(self, server, bucket: str) -> None:
        self.path = f"s3a://{bucket}/in"
        self._server, self._bucket = server, bucket

    def put(self, name: str, text: str | None = None) -> None:
        body = (name if text is None else text).encode()
        self._server.direct.put_object(Bucket=self._bucket, Key=f"in/{name}", Body=body)

    def content(self) -> dict[str, str]:
        return {name: data.decode() for name, data in self._server.content(self._bucket, "in/").items()}


@pytest.fixture(params=["disk", "s3"])
def place(request, tmp_path) -> OnDisk | InS3:
    """A folder of each kind."""
    if request.param == "disk":
        return OnDisk(tmp_path)
    return InS3(request.getfixturevalue("s3_server"), request.getfixturevalue("bucket"))


SHOWN = [
    "10.parquet",
    "9.parquet",
    "_kind=good/z.parquet",
    "a b+c%20d.parquet",
    "a.parquet",
    "a/b.parquet",
    "cat=1/y.parquet",
    "deep/er/#d?&=e.parquet",
    "über.parquet",
]
HIDDEN = ["_SUCCESS", "_temporary/t.parquet"]
DOTTED = [".hidden.parquet", ".spark/s.parquet", "a/.x/b.parquet"]


@pytest.fixture
def folder(place):
    """It holds everything that a listing has to leave out."""
    for name in (*SHOWN, *HIDDEN, *DOTTED, "notes.txt"):
        place.put(name)
    return place.path


class TestListing:
    def test_is_recursive_and_sorted_and_leaves_hidden_names_out(self, folder):
        assert [file.path for file in storage.list_files(folder, ".parquet")] == SHOWN
        assert {file.path for file in storage.walk_files(folder)} == {*SHOWN, *HIDDEN, "notes.txt"}

    def test_tells_size_and_version(self, folder):
        (file,) = storage.list_files(folder, ".txt")
        assert (file.path, file.n_bytes) == ("notes.txt", len("notes.txt"))
        found = storage.stat(f"{folder}/notes.txt")
        assert (found.n_bytes, found.modified_ns, found.etag) == (file.n_bytes, file.modified_ns, file.etag)

    def test_of_names(self, folder):
        names = {name.partition("/")[0] for name in (*SHOWN, *HIDDEN, *DOTTED, "notes.txt")}
        assert storage.list_names(folder) == sorted(names)
        assert storage.list_names(f"{folder}/a") == [".x", "b.parquet"]
        assert storage.list_names(f"{folder}/missing") == []

    def test_markers_of_folders_are_no_files(self, s3_server, bucket, root):
        s3_server.fill(bucket, ["out/a/x.jpg"])
        for key in ("out/", "out/a/", "out/empty/"):
            s3_server.direct.put_object(Bucket=bucket, Key=key, Body=b"")
        assert [file.path for file in storage.list_files(root, "")] == ["a/x.jpg"]
        assert storage.list_names(root) == ["a", "empty"]
        assert storage.is_folder(f"{root}/empty")
        assert not storage.is_file(f"{root}/empty")

    @pytest.mark.parametrize("key", ["in/a//b.jpg", "in//b.jpg", "in/./b.jpg", "in/a/../b.jpg"])
    def test_a_key_that_spark_cannot_read_is_told(self, monkeypatch, key):
        """The server makes other keys of these."""
        item = {"Key": key, "Size": 1, "LastModified": datetime.now(UTC), "ETag": '"1"'}
        monkeypatch.setattr(s3, "list_objects", lambda *_: [item])
        with pytest.raises(StorageError) as told:
            storage.list_files("s3a://b/in", "")
        assert str(told.value) == (
            f"s3a://b/in: cannot be listed: {key[3:]!r}: Hadoop cannot read such a key; rename or delete it"
        )

    def test_an_object_and_a_folder_of_one_name_are_one_name(self, monkeypatch, root):
        monkeypatch.setattr(s3, "list_top", lambda *_: [{"Key": "out/a"}, {"Prefix": "out/a/"}])
        assert storage.list_names(root) == ["a"]


class TestThousands:
    """Few folders are listed beside one another; of many small ones each page holds several."""

    NAMES = ("a.txt", "f00.txt", "f00-/x", "f01/deep/er/x", "z")

    @pytest.fixture(scope="class")
    def full(self, s3_server) -> str:
        bucket = s3_server.make_bucket()
        for n_folders in (2, 40):
            s3_server.fill(bucket, self.names(n_folders), f"{n_folders}/")
        return bucket

    def names(self, n_folders: int) -> list[str]:
        return [*self.NAMES, *(f"f{n % n_folders:02d}/{n:05d}" for n in range(3200))]

    @pytest.mark.parametrize("n_folders", [2, 40])
    def test_are_listed_in_order_with_few_requests(self, full, bad_s3, n_folders):
        found = [file.path for file in storage.walk_files(f"s3a://{full}/{n_folders}")]
        assert found == sorted(self.names(n_folders))
        assert bad_s3.requests == {"ListObjects": 7 if n_folders == 2 else 4}

    def test_are_listed_in_a_bad_store(self, full, bad_s3):
        bad_s3.rate, bad_s3.delay_s = 0.4, 0.01
        assert len(storage.list_files(f"s3a://{full}/2", "")) == 3205
        assert bad_s3.met.total() > 1

    def test_whose_listing_is_given_up_leave_no_thread(self, full, bucket):
        listing = storage.walk_files(f"s3a://{full}/2")
        assert next(listing).path == "a.txt"
        assert next(listing).path == "f00-/x"
        listing.close()
        for thread in threading.enumerate():
            if thread.name == "s3 listing":
                thread.join(PATIENCE_S)
                assert not thread.is_alive()

    def test_whose_folders_cannot_be_listed_any_more_are_an_error(self, full, bad_s3, monkeypatch):
        monkeypatch.setattr("spark_embed.storage.s3_patience.PATIENT_ATTEMPTS", 2)
        bad_s3.fail_next("ListObjects", None, None, *["slow_down"] * 10)
        listing = storage.walk_files(f"s3a://{full}/2")
        assert next(listing).path == "a.txt"
        with pytest.raises(
            StorageError, match=f"s3a://{full}/2: cannot be listed: the store answered SlowDown"
        ):
            list(listing)


def test_what_there_is(place):
    for name in ("a/b.txt", "ab", "c d/ü+%"):
        place.put(name)
    here = place.path
    expected = {
        "a": (False, True),
        "a/b.txt": (True, False),
        "ab": (True, False),
        "b": (False, False),
        "a/b": (False, False),
        "c d/ü+%": (True, False),
        "c%20d": (False, False),
    }
    for name, (is_file, is_folder) in expected.items():
        path = f"{here}/{name}"
        assert (storage.is_file(path), storage.is_folder(path)) == (is_file, is_folder), name
        assert storage.exists(path) == (is_file or is_folder)


def test_a_bucket_is_a_folder_and_one_that_is_missing_is_told(bucket):
    assert storage.exists(f"s3a://{bucket}")
    assert storage.is_folder(f"s3a://{bucket}")
    assert not storage.is_file(f"s3a://{bucket}")
    assert storage.list_files(f"s3a://{bucket}", "") == []
    for ask in (storage.exists, storage.is_folder, storage.list_names):
        with pytest.raises(
            StorageError, match=r"s3a://no-such-b: .*there is no bucket no-such-b; check its name"
        ):
            ask("s3a://no-such-b")


class TestText:
    def test_comes_back(self, place):
        path = f"{place.path}/state/rün 1+%20.json"
        value = {"name": "Köln", "rows": [1, 2.5, None]}
        storage.write_json(path, value)
        assert storage.read_json(path) == value
        assert json.loads(place.content()["state/rün 1+%20.json"]) == value
        storage.write_text(path, "")
        assert storage.read_text(path) == ""
        assert storage.read_json(f"{place.path}/missing") is None

    @pytest.mark.parametrize("data", [b"", b'{"half": ', b"\xff\xfe"])
    def test_that_is_no_json_is_an_error_with_the_path(self, s3_server, bucket, root, data):
        s3_server.direct.put_object(Bucket=bucket, Key="out/run.json", Body=data)
        with pytest.raises(StorageError, match=f"s3a://{bucket}/out/run.json: cannot be read"):
            storage.read_json(f"{root}/run.json")

    def test_is_read_with_one_request(self, root, bad_s3):
        storage.write_text(f"{root}/a", "1")
        storage.read_text(f"{root}/a")
        assert bad_s3.requests == {"PutObject": 1, "GetObject": 1}

    def test_is_read_old_or_new_while_it_is_written(self, place):
        path = f"{place.path}/metadata.json"
        versions = [{"version": version, "padding": ["x"] * 5000} for version in range(4)]
        storage.write_json(path, versions[0])

        def write():
            for version in versions * 6:
                storage.write_json(path, version)

        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(write)
            while not writer.done():
                assert storage.read_json(path) in versions
        writer.result()


class TestCreateText:
    def test_writes_only_where_nothing_is(self, root):
        storage.create_text(f"{root}/a", "1")
        with pytest.raises(StorageError, match="out/a: cannot be written: there is another one already"):
            storage.create_text(f"{root}/a", "2")
        assert storage.read_text(f"{root}/a") == "1"
        storage.create_text(f"{root}/a", "1")

    def test_its_own_whose_answer_was_lost_is_not_another(self, root, bad_s3):
        bad_s3.fail_next("PutObject", "cut")
        storage.create_text(f"{root}/a", "1")
        assert bad_s3.requests["PutObject"] == 2
        assert storage.read_text(f"{root}/a") == "1"

    @pytest.mark.parametrize("conditional", ["refused", "ignored"])
    def test_a_store_without_conditions_writes(self, root, bad_s3, conditional):
        bad_s3.conditional = conditional
        storage.create_text(f"{root}/a", "1")
        assert storage.read_text(f"{root}/a") == "1"


class TestReplacedFile:
    BODY = random.Random(0).randbytes((20 << 20) + 1)

    def write(self, path: str, body: bytes, fails: bool = False) -> None:
        with storage.replaced_file(path) as staged, open(staged, "wb") as file:
            file.write(body)
            if fails:
                raise KeyError("in the block")

    def test_takes_the_place_of_the_one_before(self, s3_server, bucket, root):
        for body in (b"1", b"", self.BODY[: 8 << 20], self.BODY):
            self.write(f"{root}/a b", body)
            assert s3_server.content(bucket) == {"out/a b": body}
        assert s3_server.uploads(bucket) == []

    @pytest.mark.parametrize("body", [b"1" * 100, BODY], ids=["small", "large"])
    def test_appears_in_a_bad_store(self, s3_server, bucket, root, bad_s3, body):
        bad_s3.delay_s = 0.01
        for operation in ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"):
            bad_s3.fail_next(operation, "slow_down", "reset", "delay", "cut")
        self.write(f"{root}/a", body)
        assert s3_server.content(bucket) == {"out/a": body}

    def test_whose_last_answer_was_lost_is_not_lost(self, s3_server, bucket, root, bad_s3):
        """Who asks again is told that there is no such upload: it is an object by now."""
        bad_s3.fail_next("CompleteMultipartUpload", "cut")
        self.write(f"{root}/a", self.BODY)
        assert bad_s3.requests["CompleteMultipartUpload"] == 2
        assert s3_server.content(bucket) == {"out/a": self.BODY}

    @pytest.mark.parametrize("failing", ["in the block", "UploadPart", "CompleteMultipartUpload"])
    def test_that_fails_leaves_what_was_there(
        self, s3_server, bucket, root, bad_s3, monkeypatch, tmp_path, failing
    ):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr("spark_embed.storage.s3_patience.PATIENT_ATTEMPTS", 3)
        self.write(f"{root}/a", b"old")
        bad_s3.only, bad_s3.rate, bad_s3.faults = {failing}, 1.0, ("slow_down",)
        with pytest.raises(
            (StorageError, KeyError), match=f"{root}/a: cannot be written: the store answ|block"
        ):
            self.write(f"{root}/a", self.BODY, fails=failing == "in the block")
        assert s3_server.content(bucket) == {"out/a": b"old"}
        assert s3_server.uploads(bucket) == []
        assert os.listdir(tmp_path) == []

    def test_for_which_this_machine_has_no_space(self, root, monkeypatch):
        def send(file, path):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(s3, "send_file", send)
        with pytest.raises(NoSpaceError, match=f"{tempfile.gettempdir()}: no space left on the disk"):
            self.write(f"{root}/a", self.BODY)


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

    def test_takes_markers_of_folders_too(self, s3_server, bucket, root):
        for key in ("out/", "out/a/", "out/a/x", "out/a ü+%/&<>"):
            s3_server.direct.put_object(Bucket=bucket, Key=key, Body=b"")
        storage.delete(root)
        assert s3_server.content(bucket) == {}

    def test_of_a_file_leaves_what_is_below_its_name(self, s3_server, bucket, root):
        s3_server.fill(bucket, ["out/a/1"])
        storage.delete_file(f"{root}/a")
        assert set(s3_server.content(bucket)) == {"out/a/1"}

    def test_of_thousands_asks_once_for_each_thousand(self, s3_server, bucket, root, bad_s3):
        s3_server.fill(bucket, [f"out/{n % 3}/{n}" for n in range(2100)])
        s3_server.fill(bucket, ["outside"])
        storage.delete(root)
        assert set(s3_server.content(bucket)) == {"outside"}
        assert bad_s3.requests["DeleteObjects"] == 3

    def test_of_some_that_the_store_was_too_busy_for_is_tried_again(
        self, s3_server, bucket, root, monkeypatch
    ):
        """It answers 200, and says so of single keys."""
        s3_server.fill(bucket, ["out/a", "out/b"])
        client = s3.client_for(bucket)
        busy = {"Errors": [{"Key": "out/a", "Code": "InternalError", "Message": "We encountered an error."}]}

        def delete_objects(**asked):
            s3_server.direct.delete_object(Bucket=bucket, Key="out/b")
            return busy

        monkeypatch.setattr(client, "delete_objects", delete_objects)
        storage.delete(root)
        assert s3_server.content(bucket) == {}

    @pytest.mark.parametrize(("status", "code"), [(400, "MissingContentMD5"), (501, "NotImplemented")])
    def test_goes_one_by_one_where_a_store_knows_no_other_way(
        self, s3_server, bucket, root, monkeypatch, status, code
    ):
        def delete_objects(**asked):
            answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
            raise ClientError(answer, "DeleteObjects")

        s3_server.fill(bucket, ["out/a", "out/b", "outside"])
        monkeypatch.setattr(s3.client_for(bucket), "delete_objects", delete_objects)
        storage.delete(root)
        assert set(s3_server.content(bucket)) == {"outside"}

    def test_that_is_denied_is_told(self, s3_server, bucket, root, monkeypatch):
        s3_server.fill(bucket, ["out/a", "out/b"])
        user = s3_server.make_user("MARKEDWHOMAYREAD", "MARKED-SECRET-OF-WHO-MAY-READ")
        for action in ("s3:GetObject", "s3:ListBucket"):
            s3_server.allow(bucket, user.access_key, action=action)
        user.set_environment(monkeypatch)
        with pytest.raises(StorageError, match=f"{root}: cannot be deleted: access denied.*s3:DeleteObject"):
            storage.delete(root)
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

    def test_leave_markers_of_folders_out(self, s3_server, bucket, root):
        for key in ("out/a/", "out/a/b/", "out/a/b/x"):
            s3_server.direct.put_object(Bucket=bucket, Key=key, Body=b"")
        storage.copy_tree(f"{root}/a", f"{root}/copy")
        assert set(s3_server.content(bucket, "out/copy/")) == {"b/x"}

    def test_of_what_is_large_are_made_by_the_store(self, s3_server, bucket, root, bad_s3):
        body = random.Random(1).randbytes(9 << 20)
        s3_server.direct.put_object(Bucket=bucket, Key="out/a", Body=body)
        storage.copy_tree(f"{root}/a", f"{root}/b")
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


def test_uploads_are_given_up_below_a_path_only(s3_server, bucket, root):
    client = s3_server.direct
    for key in ("out/a", "out/a/b", "out/ab", "out2/a", "other"):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    assert storage.delete_uploads(f"{root}/a") == 2
    assert s3_server.uploads(bucket) == ["other", "out/ab", "out2/a"]
    assert storage.delete_uploads(root) == 1
    assert s3_server.uploads(bucket) == ["other", "out2/a"]


def test_uploads_of_who_may_not_list_them_stop_nobody(s3_server, bucket, root, monkeypatch):
    s3_server.make_user("MARKEDWHOMAYNOTHING", "MARKED-SECRET-OF-NOBODY").set_environment(monkeypatch)
    assert storage.delete_uploads(root) == 0


class TestParquet:
    @pytest.fixture
    def path(self, root) -> str:
        with storage.replaced_file(f"{root}/a.parquet") as staged:
            table = pa.table({"n": range(100_000), "text": ["x" * 50] * 100_000})
            pq.write_table(table, staged, row_group_size=20_000)
        return f"{root}/a.parquet"

    def test_a_footer_is_one_request(self, path, bad_s3):
        known = storage.stat(path)
        bad_s3.asked.clear()
        assert pq.read_metadata(storage.parquet_input(path, known)).num_rows == 100_000
        assert bad_s3.requests == {"GetObject": 1}
        bad_s3.asked.clear()
        assert pq.read_metadata(storage.parquet_input(path)).num_rows == 100_000
        assert bad_s3.requests == {"GetObject": 1, "HeadObject": 1}

    def test_tables_come_back(self, path, bad_s3):
        bad_s3.rate, bad_s3.delay_s = 0.2, 0.01
        assert pq.read_table(storage.parquet_input(path), columns=["n"])["n"].to_pylist() == list(
            range(100_000)
        )
        with pq.ParquetFile(storage.parquet_input(path)) as file:
            assert file.read_row_group(3, ["n"])["n"].to_pylist() == list(range(60_000, 80_000))

    def test_what_fails_is_the_same_error_behind_pyarrow(self, path, bad_s3, monkeypatch):
        monkeypatch.setattr("spark_embed.storage.s3_patience.PATIENT_ATTEMPTS", 2)
        source = storage.parquet_input(path, storage.stat(path))
        bad_s3.down()
        with pytest.raises(S3PassingError, match="the store cannot be reached"):
            pq.read_metadata(source)


def test_an_upload_is_cut_into_parts_that_double(monkeypatch, s3_server, bucket, root):
    """Ten thousand parts are the limit, and five MiB the least."""
    monkeypatch.setattr(s3_upload, "_PARTS_OF_A_SIZE", 1)
    with storage.replaced_file(f"{root}/a") as staged, open(staged, "wb") as file:
        file.write(bytes(30 << 20))
    head = s3_server.direct.head_object(Bucket=bucket, Key="out/a")
    assert head["ContentLength"] == 30 << 20
    assert head["ETag"].endswith('-3"')  # 8, 16 and 6
