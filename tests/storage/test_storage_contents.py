"""What is read and written, on a disk and in S3; and what only S3 has: conditions, parts, lost answers."""

import json
import os
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed import storage
from spark_embed.errors import NoSpaceError, StorageError
from spark_embed.storage.s3 import store as s3
from spark_embed.storage.s3 import upload as s3_upload
from spark_embed.storage.s3.errors import S3PassingError

pytestmark = pytest.mark.usefixtures("short_s3_pauses")


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
    def test_that_is_no_json_is_an_error_with_the_path(self, s3_server, bucket, s3_root, data):
        s3_server.direct.put_object(Bucket=bucket, Key="out/run.json", Body=data)
        with pytest.raises(StorageError, match=f"s3a://{bucket}/out/run.json: cannot be read"):
            storage.read_json(f"{s3_root}/run.json")

    def test_is_read_with_one_request(self, s3_root, bad_s3):
        storage.write_text(f"{s3_root}/a", "1")
        storage.read_text(f"{s3_root}/a")
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
    def test_writes_only_where_nothing_is(self, s3_root):
        storage.create_text(f"{s3_root}/a", "1")
        with pytest.raises(StorageError, match="out/a: cannot be written: there is another one already"):
            storage.create_text(f"{s3_root}/a", "2")
        assert storage.read_text(f"{s3_root}/a") == "1"
        storage.create_text(f"{s3_root}/a", "1")

    def test_its_own_whose_answer_was_lost_is_not_another(self, s3_root, bad_s3):
        bad_s3.fail_next("PutObject", "cut")
        storage.create_text(f"{s3_root}/a", "1")
        assert bad_s3.requests["PutObject"] == 2
        assert storage.read_text(f"{s3_root}/a") == "1"

    @pytest.mark.parametrize("conditional", ["refused", "ignored"])
    def test_a_store_without_conditions_writes(self, s3_root, bad_s3, conditional):
        bad_s3.conditional = conditional
        storage.create_text(f"{s3_root}/a", "1")
        assert storage.read_text(f"{s3_root}/a") == "1"


class TestReplaceText:
    def test_only_what_may_go_is_replaced(self, place):
        path = f"{place.path}/a"
        seen = []
        assert storage.replace_text(path, "1", lambda there: not seen.append(there))
        assert storage.replace_text(path, "2", lambda there: not seen.append(there))
        assert not storage.replace_text(path, "3", lambda there: seen.append(there) or False)
        assert seen == [None, b"1", b"2"]
        assert place.content() == {"a": "2"}

    @pytest.mark.parametrize("there", [None, "1"])
    def test_in_s3_what_comes_in_that_moment_stays(self, s3_root, there):
        path = f"{s3_root}/a"
        if there is not None:
            storage.write_text(path, there)

        def while_it_looks(found):
            assert found == (there and there.encode())
            storage.write_text(path, "another's")
            return True

        assert not storage.replace_text(path, "2", while_it_looks)
        assert storage.read_text(path) == "another's"

    @pytest.mark.parametrize("there", [None, "1"])
    def test_its_own_whose_answer_was_lost_is_not_another(self, s3_root, bad_s3, there):
        if there is not None:
            storage.write_text(f"{s3_root}/a", there)
        bad_s3.fail_next("PutObject", "cut")
        n_before = bad_s3.requests["PutObject"]
        assert storage.replace_text(f"{s3_root}/a", "2", lambda found: found == (there and there.encode()))
        assert bad_s3.requests["PutObject"] == n_before + 2
        assert storage.read_text(f"{s3_root}/a") == "2"

    @pytest.mark.parametrize("conditional", ["refused", "ignored"])
    def test_a_store_without_conditions_writes(self, s3_root, bad_s3, conditional):
        bad_s3.conditional = conditional
        assert storage.replace_text(f"{s3_root}/a", "1", lambda found: found is None)
        assert storage.read_text(f"{s3_root}/a") == "1"


class TestReplacedFile:
    BODY = random.Random(0).randbytes((20 << 20) + 1)

    def write(self, path: str, body: bytes, fails: bool = False) -> None:
        with storage.replaced_file(path) as staged, open(staged, "wb") as file:
            file.write(body)
            if fails:
                raise KeyError("in the block")

    def test_takes_the_place_of_the_one_before(self, s3_server, bucket, s3_root):
        for body in (b"1", b"", self.BODY[: 8 << 20], self.BODY):
            self.write(f"{s3_root}/a b", body)
            assert s3_server.content(bucket) == {"out/a b": body}
        assert s3_server.uploads(bucket) == []

    @pytest.mark.parametrize("body", [b"1" * 100, BODY], ids=["small", "large"])
    def test_appears_in_a_bad_store(self, s3_server, bucket, s3_root, bad_s3, body):
        bad_s3.delay_s = 0.01
        for operation in ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"):
            bad_s3.fail_next(operation, "slow_down", "reset", "delay", "cut")
        self.write(f"{s3_root}/a", body)
        assert s3_server.content(bucket) == {"out/a": body}

    def test_whose_last_answer_was_lost_is_not_lost(self, s3_server, bucket, s3_root, bad_s3):
        """Who asks again is told that there is no such upload: it is an object by now."""
        bad_s3.fail_next("CompleteMultipartUpload", "cut")
        self.write(f"{s3_root}/a", self.BODY)
        assert bad_s3.requests["CompleteMultipartUpload"] == 2
        assert s3_server.content(bucket) == {"out/a": self.BODY}

    @pytest.mark.usefixtures("short_s3_pauses")
    @pytest.mark.parametrize("failing", ["in the block", "UploadPart", "CompleteMultipartUpload"])
    def test_that_fails_leaves_what_was_there(
        self, s3_server, bucket, s3_root, bad_s3, monkeypatch, tmp_path, failing
    ):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr("spark_embed.storage.s3.patience.PATIENT_ATTEMPTS", 3)
        self.write(f"{s3_root}/a", b"old")
        bad_s3.only, bad_s3.rate, bad_s3.faults = {failing}, 1.0, ("slow_down",)
        with pytest.raises(
            (StorageError, KeyError), match=f"{s3_root}/a: cannot be written: the store answ|block"
        ):
            self.write(f"{s3_root}/a", self.BODY, fails=failing == "in the block")
        assert s3_server.content(bucket) == {"out/a": b"old"}
        assert s3_server.uploads(bucket) == []
        assert os.listdir(tmp_path) == []

    def test_for_which_this_machine_has_no_space(self, s3_root, monkeypatch):
        def send(file, path):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(s3, "send_file", send)
        with pytest.raises(NoSpaceError, match=f"{tempfile.gettempdir()}: no space left on the disk"):
            self.write(f"{s3_root}/a", self.BODY)


class TestParquet:
    @pytest.fixture
    def path(self, s3_root) -> str:
        with storage.replaced_file(f"{s3_root}/a.parquet") as staged:
            table = pa.table({"n": range(100_000), "text": ["x" * 50] * 100_000})
            pq.write_table(table, staged, row_group_size=20_000)
        return f"{s3_root}/a.parquet"

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
        monkeypatch.setattr("spark_embed.storage.s3.patience.PATIENT_ATTEMPTS", 2)
        source = storage.parquet_input(path, storage.stat(path))
        bad_s3.down()
        with pytest.raises(S3PassingError, match="the store cannot be reached"):
            pq.read_metadata(source)


def test_an_upload_is_cut_into_parts_that_double(monkeypatch, s3_server, bucket, s3_root):
    """Ten thousand parts are the limit, and five MiB the least."""
    monkeypatch.setattr(s3_upload, "_PARTS_OF_A_SIZE", 1)
    with storage.replaced_file(f"{s3_root}/a") as staged, open(staged, "wb") as file:
        file.write(bytes(30 << 20))
    head = s3_server.direct.head_object(Bucket=bucket, Key="out/a")
    assert head["ContentLength"] == 30 << 20
    assert head["ETag"].endswith('-3"')  # 8, 16 and 6
