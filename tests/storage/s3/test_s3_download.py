"""What S3 lists of one folder, and objects that become files."""

import os
from datetime import UTC, datetime

import boto3
import pytest
from botocore.stub import Stubber

from spark_embed import storage
from spark_embed.errors import NoSpaceError, StorageError
from spark_embed.storage import StoredFile
from spark_embed.storage.s3 import client as s3_client
from spark_embed.storage.s3 import download as s3_download
from spark_embed.storage.s3 import listing as s3_listing


@pytest.fixture(autouse=True)
def own_clients(monkeypatch):
    """Clients of before know another store."""
    monkeypatch.setattr(s3_client, "_clients", {})


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path) -> str:
    """A folder of either kind with two files and another folder in it."""
    if request.param == "local":
        path = str(tmp_path / "folder")
    else:
        path = f"s3://{request.getfixturevalue('bucket')}/folder"
    for name in ("b.json", ".hidden", "below/c.json"):
        storage.write_text(f"{path}/{name}", name)
    return path


def test_one_folder_is_listed_without_what_is_below(folder):
    files = storage.list_folder(folder)
    assert [(file.path, file.n_bytes) for file in files] == [(".hidden", 7), ("b.json", 6)]
    assert all(file.etag for file in files) == storage.is_s3(folder)
    assert storage.list_folder(f"{folder}/none") == []


def test_no_answer_of_a_store_leads_out_of_a_folder(monkeypatch):
    client = boto3.client("s3", region_name="eu-west-1")
    names = ["", ".", "..", "../x.json", "/etc/x.json", "a/../../x.json", "sub/model.safetensors", "ok.json"]
    found = [{"Key": f"f/{name}", "Size": 1, "LastModified": datetime.now(UTC)} for name in names]
    monkeypatch.setattr(s3_listing, "client_for", lambda bucket: client)
    with Stubber(client) as stub:
        stub.add_response("list_objects_v2", {"Contents": found})
        assert [file.path for file in storage.list_folder("s3://bucket/f")] == ["ok.json"]


RANGE = 1000


@pytest.mark.parametrize("n_bytes", [0, 1, RANGE - 1, RANGE, RANGE + 1, 20 * RANGE + 1])
def test_an_object_becomes_a_file_range_by_range(bucket, s3_server, tmp_path, monkeypatch, n_bytes):
    monkeypatch.setattr(s3_download, "_RANGE_BYTES", RANGE)
    data = os.urandom(n_bytes)
    s3_server.client().put_object(Bucket=bucket, Key="x", Body=data)
    storage.download(f"s3://{bucket}/x", str(tmp_path / "x"), storage.stat(f"s3://{bucket}/x"))
    assert (tmp_path / "x").read_bytes() == data


def test_a_store_that_fails_now_and_then_is_asked_again(bucket, bad_s3, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_download, "_RANGE_BYTES", RANGE)
    data = os.urandom(20 * RANGE)
    bad_s3.store.client().put_object(Bucket=bucket, Key="x", Body=data)
    known = storage.stat(f"s3://{bucket}/x")
    bad_s3.rate, bad_s3.only, bad_s3.faults = 0.4, {"GetObject"}, ("slow_down", "reset", "cut")
    storage.download(f"s3://{bucket}/x", str(tmp_path / "x"), known)
    assert (tmp_path / "x").read_bytes() == data
    assert sum(bad_s3.met.values()) > 3


def test_an_object_that_was_replaced_since_it_was_listed_is_refused(bucket, s3_server, tmp_path):
    s3_server.client().put_object(Bucket=bucket, Key="x", Body=b"old")
    known = storage.stat(f"s3://{bucket}/x")
    s3_server.client().put_object(Bucket=bucket, Key="x", Body=b"new")
    with pytest.raises(StorageError, match=rf"^s3://{bucket}/x: cannot be copied to .*has changed meanwhile"):
        storage.download(f"s3://{bucket}/x", str(tmp_path / "x"), known)


def test_a_full_disk_is_told_as_one(bucket, s3_server):
    s3_server.client().put_object(Bucket=bucket, Key="x", Body=b"x")
    with pytest.raises(NoSpaceError, match="/dev/full: no space left"):
        storage.download(f"s3://{bucket}/x", "/dev/full", storage.stat(f"s3://{bucket}/x"))


def test_a_folder_that_is_not_there_cannot_be_written_to(bucket, s3_server, tmp_path):
    with pytest.raises(StorageError, match="No such file or directory"):
        storage.download(f"s3://{bucket}/x", str(tmp_path / "none/x"), StoredFile("x", 1))
