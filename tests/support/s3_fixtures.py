"""Fixtures of the tests that need S3: a real server, buckets, a proxy that does harm."""

from functools import cache

import pytest
from botocore.loaders import JSONFileLoader

from support.bad_s3 import BadS3
from support.s3_server import find_server
from support.storage_places import InS3, OnDisk


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """A real S3 server; `s3_server.find_server` says which."""
    with pytest.MonkeyPatch.context() as patch, find_server(tmp_path_factory.mktemp("s3")) as server:
        # Each test has an environment of its own, and so a client: the SDK reads a megabyte of JSON for each.
        read_once = cache(JSONFileLoader().load_file)
        patch.setattr(JSONFileLoader, "load_file", lambda _, path: read_once(path))
        yield server


@pytest.fixture
def bucket(s3_server, monkeypatch) -> str:
    """The name of a new bucket; the environment of the test, and of what it starts, leads to its server."""
    s3_server.set_environment(monkeypatch)
    return s3_server.make_bucket()


@pytest.fixture
def s3_root(bucket) -> str:
    """A folder in S3 that nothing is in yet."""
    return f"s3a://{bucket}/out"


@pytest.fixture(scope="session")
def s3_spark(spark, s3_server):
    """The session, where it can read S3; else the test is skipped."""
    return spark


@pytest.fixture
def s3_spark_elsewhere(s3_spark, monkeypatch):
    """The same for a test of another endpoint, which the session's later tasks are not told."""
    monkeypatch.setattr(s3_spark.sparkContext, "environment", dict(s3_spark.sparkContext.environment))
    return s3_spark


@pytest.fixture(params=["disk", "s3"])
def place(request, tmp_path):
    """A folder of each kind, to put files into."""
    if request.param == "disk":
        return OnDisk(tmp_path)
    return InS3(request.getfixturevalue("s3_server"), request.getfixturevalue("bucket"))


@pytest.fixture
def bad_s3(s3_server, bucket, monkeypatch):
    """A proxy in front of the bucket's server; the environment leads to it. It does no harm until told to."""
    with BadS3(s3_server) as proxy:
        s3_server.seen_through(proxy.endpoint).set_environment(monkeypatch)
        yield proxy


@pytest.fixture
def short_s3_pauses(monkeypatch):
    """A store that is away or busy is soon asked again."""
    monkeypatch.setattr("spark_embed.storage.s3.patience.MAX_PAUSE_S", 0.05)
