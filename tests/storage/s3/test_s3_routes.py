"""Where the store is, and whom to trust: as the SDK finds it, in the environment or in AWS files."""

import os

import pytest

from spark_embed.storage.s3 import requests as s3_requests
from spark_embed.storage.s3.errors import S3Error
from spark_embed.storage.s3.requests import ObjectRequests
from spark_embed.storage.s3.routes import find_route, s3_endpoint, s3_region

CONFIG = """
[default]
endpoint_url = http://of.default

[profile with-services]
services = ours
endpoint_url = http://of.profile

[services ours]
s3 =
  endpoint_url = http://of.service

[profile without]
region = eu-west-1

[profile strict]
ca_bundle = /missing/bundle.pem
"""


@pytest.fixture(autouse=True)
def files(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_") or name == "REQUESTS_CA_BUNDLE"]:
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(CONFIG)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "http://of.default"),
        ({"AWS_PROFILE": "with-services"}, "http://of.service"),
        ({"AWS_PROFILE": "without"}, None),
        ({"AWS_ENDPOINT_URL": "http://of.all"}, "http://of.all"),
        ({"AWS_ENDPOINT_URL": "http://of.all", "AWS_ENDPOINT_URL_S3": "http://of.s3"}, "http://of.s3"),
        ({"AWS_ENDPOINT_URL": "http://of.all", "AWS_PROFILE": "with-services"}, "http://of.all"),
        ({"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true", "AWS_ENDPOINT_URL": "http://of.all"}, None),
    ],
)
def test_the_endpoint_is_that_of_the_sdk(monkeypatch, environ, expected):
    import boto3

    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert s3_endpoint() == expected
    theirs = boto3.Session().client("s3", region_name="eu-west-1").meta.endpoint_url
    assert theirs == (expected or "https://s3.eu-west-1.amazonaws.com")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "us-east-1"),
        ({"AWS_PROFILE": "without"}, "eu-west-1"),
        ({"AWS_PROFILE": "without", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
        ({"AWS_REGION": "eu-west-3", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-3"),
    ],
)
def test_the_region_is_that_of_the_environment_or_the_profile(monkeypatch, environ, expected):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert s3_region() == expected


@pytest.mark.parametrize(
    ("bucket", "url"),
    [
        ("bucket", "https://bucket.s3.{region}.amazonaws.com/a%20b"),
        ("with.dots", "https://s3.{region}.amazonaws.com/with.dots/a%20b"),
    ],
)
@pytest.mark.parametrize("here", ["us-east-1", "eu-west-1"])
@pytest.mark.parametrize("there", ["us-east-1", "eu-west-1", "eu-south-1"])
def test_objects_on_aws_are_asked_for_in_their_bucket_s_region(monkeypatch, bucket, url, here, there):
    """The global endpoint answers with a redirect, or not at all for a newer region."""
    monkeypatch.setenv("AWS_PROFILE", "without")
    monkeypatch.setenv("AWS_REGION", here)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setattr(s3_requests, "_region_of", lambda client, bucket: there)  # nothing is sent
    assert ObjectRequests().url(f"s3://{bucket}/a b") == url.format(region=there)


def test_a_profile_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "staging")
    with pytest.raises(S3Error, match=r"config profile \(staging\) could not be found"):
        s3_endpoint()


def test_certificates_may_be_named_by_the_profile(monkeypatch):
    assert find_route("https://store").tls is True
    monkeypatch.setenv("AWS_PROFILE", "strict")
    with pytest.raises(S3Error, match=r"/missing/bundle\.pem: no certificates that can be read"):
        find_route("https://store")


def test_a_proxy_is_that_of_the_environment(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "inside")
    assert find_route("https://store").proxy == "http://proxy:3128"
    assert find_route("https://inside").proxy is None
