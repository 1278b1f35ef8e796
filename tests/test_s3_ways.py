"""Where the store is, and whom to trust: as the SDK finds it, in the environment or in AWS files."""

import pytest

from spark_embed.storage.s3_errors import S3Error
from spark_embed.storage.s3_ways import find_way, s3_endpoint

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
    for name in (
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_PROFILE",
        "AWS_CA_BUNDLE",
        "REQUESTS_CA_BUNDLE",
    ):
        monkeypatch.delenv(name, raising=False)
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


def test_a_profile_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "staging")
    with pytest.raises(S3Error, match=r"config profile \(staging\) could not be found"):
        s3_endpoint()


def test_certificates_may_be_named_by_the_profile(monkeypatch):
    assert find_way("https://store").tls is True
    monkeypatch.setenv("AWS_PROFILE", "strict")
    with pytest.raises(S3Error, match=r"/missing/bundle\.pem: no certificates that can be read"):
        find_way("https://store")


def test_a_proxy_is_that_of_the_environment(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "inside")
    assert find_way("https://store").proxy == "http://proxy:3128"
    assert find_way("https://inside").proxy is None
