"""The proxy that other tests rest on passes requests on untouched, and does the harm that it is told to."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs as fs
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ResponseStreamingError,
)

from support.bad_s3 import FAULTS, BadS3
from support.waiting import wait_until

PATIENT = Config(retries={"total_max_attempts": 10})


@pytest.fixture
def client(bad_s3, s3_server):
    """Goes through the proxy, and tries once."""
    return s3_server.seen_through(bad_s3.endpoint).client()


@pytest.fixture
def direct(s3_server):
    """Goes to the server itself."""
    return s3_server.client()


def keys(direct, bucket: str) -> list[str]:
    return [entry["Key"] for entry in direct.list_objects_v2(Bucket=bucket).get("Contents", [])]


def test_does_nothing_until_told_to(client, bucket, bad_s3):
    where = {"Bucket": bucket, "Key": "a b/ü%+"}
    body = bytes(range(256)) * (3 << 12)
    client.put_object(**where, Body=body, IfNoneMatch="*")
    assert client.head_object(**where)["ContentLength"] == len(body)
    assert client.get_object(**where)["Body"].read() == body
    assert client.get_object(**where, Range="bytes=254-257")["Body"].read() == b"\xfe\xff\x00\x01"
    assert client.list_objects_v2(Bucket=bucket)["Contents"][0]["Key"] == where["Key"]
    client.delete_object(**where)
    with pytest.raises(ClientError, match="NoSuchKey"):
        client.get_object(**where)
    asked = {"PutObject": 1, "HeadObject": 1, "GetObject": 3, "ListObjects": 1, "DeleteObject": 1}
    assert bad_s3.requests == asked
    assert bad_s3.asked[0] == ("PutObject", f"/{bucket}/a b/ü%+", None)
    assert not bad_s3.met


def test_passes_on_what_pyarrow_sends(bad_s3, bucket):
    """Bodies in chunks, with a checksum in the trailer, after 100 Continue; several connections at once."""
    store, path = fs.FileSystem.from_uri(f"s3://{bucket}/a")
    body = bytes(range(256)) * (12 << 12)
    with store.open_output_stream(path) as stream:
        stream.write(body)
    assert store.open_input_file(path).read() == body
    assert bad_s3.requests["UploadPart"] == 2
    assert bad_s3.requests["CompleteMultipartUpload"] == 1


class TestFaults:
    def test_slow_down(self, client, direct, bucket, bad_s3):
        bad_s3.fail_next("PutObject", "slow_down")
        with pytest.raises(ClientError) as caught:
            client.put_object(Bucket=bucket, Key="a", Body=b"1" * 100_000)
        assert caught.value.response["Error"]["Code"] == "SlowDown"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
        assert keys(direct, bucket) == []
        client.put_object(Bucket=bucket, Key="a", Body=b"1")
        bad_s3.fail_next("HeadObject", "slow_down")
        with pytest.raises(ClientError, match="503"):
            client.head_object(Bucket=bucket, Key="a")

    def test_reset(self, client, direct, bucket, bad_s3):
        bad_s3.fail_next("PutObject", "reset")
        with pytest.raises(ConnectionClosedError):
            client.put_object(Bucket=bucket, Key="a", Body=b"1")
        assert keys(direct, bucket) == []

    def test_delay(self, client, bucket, bad_s3):
        bad_s3.delay_s = 0.3
        bad_s3.fail_next("PutObject", "delay")
        begin = time.monotonic()
        client.put_object(Bucket=bucket, Key="a", Body=b"1")
        assert time.monotonic() - begin > 0.3

    def test_cut_of_an_answer(self, client, bucket, bad_s3):
        client.put_object(Bucket=bucket, Key="a", Body=b"1" * 1_000_000)
        bad_s3.fail_next("GetObject", "cut")
        body = client.get_object(Bucket=bucket, Key="a")["Body"]
        with pytest.raises(ResponseStreamingError, match="500000 bytes read"):
            body.read()

    def test_cut_of_a_write_that_was_done(self, client, direct, bucket, bad_s3):
        """A writer who tries again finds that somebody was there before: it was them."""
        bad_s3.fail_next("PutObject", "cut")
        with pytest.raises(ConnectionClosedError):
            client.put_object(Bucket=bucket, Key="a", Body=b"1", IfNoneMatch="*")
        assert keys(direct, bucket) == ["a"]
        assert bad_s3.met == {("cut", "PutObject"): 1}


class TestRate:
    def put(self, s3_server, proxy: BadS3, bucket: str) -> None:
        """Write sixty objects in threads, each until it is done."""
        client = s3_server.seen_through(proxy.endpoint).client(config=PATIENT)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: client.put_object(Bucket=bucket, Key=f"{n}", Body=b"1"), range(60)))

    def test_is_met_and_repeats(self, s3_server, direct, monkeypatch):
        monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
        met = []
        for _ in range(2):
            bucket = s3_server.make_bucket()
            with BadS3(s3_server, rate=0.3, delay_s=0.01) as proxy:
                self.put(s3_server, proxy, bucket)
                met.append(proxy.met)
                assert 0.2 < proxy.met.total() / proxy.requests.total() < 0.4
            assert len(keys(direct, bucket)) == 60
        assert met[0] == met[1]
        assert {fault for fault, _ in met[0]} == set(FAULTS)

    def test_may_change_and_be_of_some_operations_only(self, s3_server, client, bucket, bad_s3):
        bad_s3.faults, bad_s3.only, bad_s3.rate = ("slow_down",), {"GetObject"}, 1.0
        client.put_object(Bucket=bucket, Key="a", Body=b"1")
        with pytest.raises(ClientError, match="SlowDown"):
            client.get_object(Bucket=bucket, Key="a")
        bad_s3.rate = 0.0
        assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"1"


class TestConditions:
    def test_refused(self, client, direct, bucket, bad_s3):
        bad_s3.conditional = "refused"
        with pytest.raises(ClientError, match="NotImplemented"):
            client.put_object(Bucket=bucket, Key="a", Body=b"1", IfNoneMatch="*")
        assert keys(direct, bucket) == []
        client.put_object(Bucket=bucket, Key="a", Body=b"1")
        assert bad_s3.met == {("refused", "PutObject"): 1}

    def test_ignored(self, client, bucket, bad_s3):
        bad_s3.conditional = "ignored"
        for body in (b"1", b"2"):
            client.put_object(Bucket=bucket, Key="ü/a", Body=body, IfNoneMatch="*")
        client.put_object(Bucket=bucket, Key="ü/b", Body=b"3", IfMatch='"0"')
        assert client.get_object(Bucket=bucket, Key="ü/a")["Body"].read() == b"2"
        bad_s3.conditional = "kept"
        with pytest.raises(ClientError, match="PreconditionFailed"):
            client.put_object(Bucket=bucket, Key="ü/a", Body=b"3", IfNoneMatch="*")


def test_an_outage(client, bucket, bad_s3):
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    bad_s3.down()
    with pytest.raises(EndpointConnectionError):
        client.head_object(Bucket=bucket, Key="a")
    bad_s3.up()
    client.head_object(Bucket=bucket, Key="a")
    assert bad_s3.requests["HeadObject"] == 1


def test_nothing_is_left_of_it(s3_server):
    with BadS3(s3_server) as proxy, ThreadPoolExecutor(1) as pool:
        proxy.delay_s = 60
        proxy.fail_next("ListObjects", "delay")
        client = s3_server.seen_through(proxy.endpoint).client()
        asking = pool.submit(client.list_objects_v2, Bucket=s3_server.make_bucket())
        wait_until(lambda: proxy.asked, "it is asked")
        proxy.down()
        with pytest.raises(ConnectionClosedError):
            asking.result()
    assert not [thread for thread in threading.enumerate() if thread.name == "bad-s3"]
