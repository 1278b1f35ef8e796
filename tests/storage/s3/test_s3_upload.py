"""Files that are written now and appear later, in S3 and on a disk: whole and when they are published."""

import random
import threading
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError

from spark_embed import storage
from spark_embed.errors import StorageError
from spark_embed.storage import split_s3
from spark_embed.storage.s3.client import client_for
from spark_embed.storage.s3.errors import S3Error, S3PassingError
from spark_embed.storage.s3.upload import S3Upload, complete_upload
from spark_embed.storage.staged import publish_file, stage_file

pytestmark = pytest.mark.usefixtures("short_s3_pauses")

BODY = random.Random(0).randbytes((17 << 20) + 5)


@pytest.fixture
def path(bucket) -> str:
    return f"s3a://{bucket}/out/a b+ü.parquet"


@pytest.fixture
def places(request, tmp_path, bucket):
    """Where a file is staged, and where it will appear."""
    root = str(tmp_path) if request.param == "disk" else f"s3a://{bucket}"
    for folder in ("staged", "out"):
        storage.make_folder(f"{root}/{folder}")
    return f"{root}/staged/a.parquet", f"{root}/out/a.parquet"


both = pytest.mark.parametrize("places", ["disk", "s3"], indirect=True)
in_s3 = pytest.mark.parametrize("places", ["s3"], indirect=True)


def upload(path: str, body: bytes = BODY) -> str:
    """Upload a body in pieces of odd sizes; returns the receipt."""
    file, left, dice = S3Upload(path), memoryview(body), random.Random(len(body))
    while left:
        n_bytes = dice.choice([1, 1000, 300_000, 5 << 20, 12 << 20])
        assert file.write(left[:n_bytes]) == len(left[:n_bytes])
        left = left[n_bytes:]
    assert file.tell() == len(body)
    return file.finish()


def stage(places, n_rows: int = 1000):
    """Write a parquet file; returns what it is then."""
    file = stage_file(*places)
    with pq.ParquetWriter(file.sink, pa.schema([("n", pa.int64())])) as writer:
        for first in range(0, n_rows, 100):
            writer.write_table(pa.table({"n": range(first, first + 100)}))
    return file


def rows(path: str) -> list[int]:
    return pq.read_table(storage.parquet_input(path), partitioning=None)["n"].to_pylist()


class TestUpload:
    @pytest.mark.parametrize("n_bytes", [0, 1, 8 << 20, len(BODY)])
    def test_appears_when_it_is_completed(self, s3_server, bucket, path, n_bytes):
        receipt = upload(path, BODY[:n_bytes])
        assert s3_server.content(bucket) == {}
        assert s3_server.uploads(bucket) == ["out/a b+ü.parquet"]
        complete_upload(receipt)
        assert s3_server.content(bucket) == {"out/a b+ü.parquet": BODY[:n_bytes]}
        assert s3_server.uploads(bucket) == []

    def test_takes_the_place_of_the_object_before(self, s3_server, bucket, path):
        storage.write_text(path, "old")
        receipt = upload(path)
        assert storage.read_text(path) == "old"
        complete_upload(receipt)
        assert s3_server.content(bucket) == {"out/a b+ü.parquet": BODY}

    def test_in_a_bad_store_is_whole(self, s3_server, bucket, path, bad_s3):
        bad_s3.delay_s = 0.01
        for operation in ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"):
            bad_s3.fail_next(operation, "slow_down", "reset", "delay", "cut")
        complete_upload(upload(path))
        assert s3_server.content(bucket) == {"out/a b+ü.parquet": BODY}

    def test_may_be_completed_again(self, s3_server, bucket, path, bad_s3):
        """By the same run, whose answer was lost, or by the next one, which has nothing but the receipt."""
        receipt = upload(path)
        bad_s3.fail_next("CompleteMultipartUpload", "cut")
        complete_upload(receipt)
        complete_upload(receipt)
        assert bad_s3.requests["CompleteMultipartUpload"] == 3
        assert s3_server.content(bucket) == {"out/a b+ü.parquet": BODY}

    @pytest.mark.parametrize("before", [None, bytes(len(BODY))])
    def test_that_is_gone_is_not_taken_for_one_that_has_appeared(self, path, monkeypatch, before):
        """Not even where another object has its name and its size."""

        def complete(**asked):
            answer = {"Error": {"Code": "NoSuchUpload"}, "ResponseMetadata": {"HTTPStatusCode": 404}}
            raise ClientError(answer, "CompleteMultipartUpload")

        if before is not None:
            storage.write_text(path, before.decode())
        receipt = upload(path)
        monkeypatch.setattr(client_for(split_s3(path)[0]), "complete_multipart_upload", complete)
        with pytest.raises(S3Error, match="the upload is gone, and the object that it was for is not there"):
            complete_upload(receipt)

    def test_that_fails_says_so_while_it_is_written(self, path, bad_s3, monkeypatch):
        monkeypatch.setattr("spark_embed.storage.s3.patience.PATIENT_ATTEMPTS", 2)
        file = S3Upload(path)
        bad_s3.only, bad_s3.rate, bad_s3.faults = {"UploadPart"}, 1.0, ("slow_down",)
        with pytest.raises(S3Error, match="SlowDown"):
            file.write(bytes(80 << 20))
        file.discard()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("upload")]


@both
def test_a_file_appears_when_it_is_published(places):
    staged, path = places
    n_bytes = stage(places).finish()
    assert not storage.exists(path)
    publish_file(staged, path)
    assert rows(path) == list(range(1000))
    assert storage.stat(path).n_bytes == n_bytes


@both
def test_a_file_that_is_published_takes_the_place_of_the_one_before(places):
    staged, path = places
    for n_rows in (100, 300):
        stage(places, n_rows).finish()
        publish_file(staged, path)
        assert rows(path) == list(range(n_rows))


@both
def test_what_is_discarded_leaves_nothing(s3_server, bucket, places):
    staged, path = places
    file = stage(places)
    for _ in range(2):
        file.discard()
    assert s3_server.uploads(bucket) == []
    assert not storage.exists(staged)
    assert not storage.exists(path)


@both
def test_of_two_attempts_at_a_task_the_last_that_finished_is_published(s3_server, bucket, places):
    staged, path = places
    first, second = stage(places, 100), stage(places, 200)
    first.finish()
    second.finish()
    publish_file(staged, path)
    assert rows(path) == list(range(200))
    storage.delete_uploads(path)
    assert s3_server.uploads(bucket) == []
    assert rows(path) == list(range(200))


@in_s3
def test_what_cannot_be_published_is_an_error_with_its_path(places):
    staged, path = places
    with pytest.raises(StorageError, match=f"{path}: cannot be published: .*there is no such object"):
        publish_file(staged, path)
    stage(places).finish()
    storage.delete_uploads(path)
    with pytest.raises(StorageError, match=f"{path}: cannot be published: "):
        publish_file(staged, path)


@in_s3
def test_a_store_that_goes_away_in_the_middle_is_an_error_behind_pyarrow(places, bad_s3, monkeypatch):
    monkeypatch.setattr("spark_embed.storage.s3.patience.PATIENT_ATTEMPTS", 2)
    file = stage_file(*places)
    bad_s3.down()
    values = random.Random(0).randbytes(40 << 20)
    table = pa.table({"bytes": [values[first : first + 4096] for first in range(0, len(values), 4096)]})
    writer = pq.ParquetWriter(file.sink, table.schema)
    with pytest.raises(S3PassingError, match="the store cannot be reached"):
        writer.write_table(table)
    with suppress(OSError):
        writer.close()
    file.discard()
