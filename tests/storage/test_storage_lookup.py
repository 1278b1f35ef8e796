"""What there is, on a disk and in S3; and what only S3 has: pages of thousands, markers of folders."""

import threading
from datetime import UTC, datetime

import pytest

from spark_embed import storage
from spark_embed.errors import StorageError
from spark_embed.storage.s3 import store as s3

from support.waiting import PATIENCE_S

pytestmark = pytest.mark.usefixtures("short_s3_pauses")


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

    def test_markers_of_folders_are_no_files(self, s3_server, bucket, s3_root):
        s3_server.fill(bucket, ["out/a/x.jpg"])
        for key in ("out/", "out/a/", "out/empty/"):
            s3_server.direct.put_object(Bucket=bucket, Key=key, Body=b"")
        assert [file.path for file in storage.list_files(s3_root, "")] == ["a/x.jpg"]
        assert storage.list_names(s3_root) == ["a", "empty"]
        assert storage.is_folder(f"{s3_root}/empty")
        assert not storage.is_file(f"{s3_root}/empty")

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

    def test_an_object_and_a_folder_of_one_name_are_one_name(self, monkeypatch, s3_root):
        monkeypatch.setattr(s3, "list_top", lambda *_: [{"Key": "out/a"}, {"Prefix": "out/a/"}])
        assert storage.list_names(s3_root) == ["a"]


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
        monkeypatch.setattr("spark_embed.storage.s3.patience.PATIENT_ATTEMPTS", 2)
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
