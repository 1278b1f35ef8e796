"""What Spark and its workers are to know of S3: settings of Hadoop's S3A and environment variables.

Runs on the driver and imports no Spark. No secret passes through here: S3A and boto3 look for credentials
themselves, where each of them runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from spark_embed.config import Config
from spark_embed.errors import ConfigError
from spark_embed.load_config import conf_folder, read_properties
from spark_embed.storage import is_s3, s3_endpoint, s3_region, split_s3

_ANONYMOUS = "SPARK_EMBED_ANONYMOUS"
_ANONYMOUS_BUCKETS = "SPARK_EMBED_ANONYMOUS_BUCKETS"
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # the first that is set counts, as for boto3
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")  # Java's SDK reads the first, boto3 the second

_HADOOP = "spark.hadoop."

# First what the user has put into fs.s3a.access.key and its like, or Spark from AWS_ACCESS_KEY_ID (executors
# get it so). Then what boto3 tries, too: profiles, web identity, the roles of containers and machines;
# Hadoop's own default knows no profile and no web identity.
_PROVIDERS = (
    "org.apache.hadoop.fs.s3a.TemporaryAWSCredentialsProvider",
    "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
)
_CHAIN = "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider"
_CHAIN_OF_SDK_1 = "com.amazonaws.auth.DefaultAWSCredentialsProviderChain"  # Hadoop 3.3
_NO_CREDENTIALS = "org.apache.hadoop.fs.s3a.AnonymousAWSCredentialsProvider"


def s3_bucket(config: Config) -> str | None:
    """Return the bucket of the first path of a run that is on S3; None if none is."""
    for uri in (config.input_dir, config.output_dir, *config.allowed_roots):
        if is_s3(uri):
            return split_s3(uri)[0]
    return None


def needs_s3(config: Config) -> bool:
    """Say whether Spark's JVM reads or writes on S3 in this run. A model is the workers' business."""
    return s3_bucket(config) is not None


def export_region(aws_region: str | None) -> None:
    """Say for this process and those that it starts where the buckets are; None leaves it as it is."""
    if aws_region:
        os.environ.update(dict.fromkeys(_REGIONS, aws_region))


def export_s3_environment(config: Config) -> None:
    """Put the options into this process's environment, which the workers are to have, too."""
    export_region(config.aws_region)
    options = {
        _ANONYMOUS: "true" if config.anonymous else "",
        _ANONYMOUS_BUCKETS: ",".join(config.anonymous_buckets),
    }
    for name, value in options.items():
        if value:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)


def store_environment(config: Config) -> dict[str, str]:
    """Return this process's environment, and in it what the profile says of a store that is not AWS.

    S3A does not look there for the endpoint and its region, and other machines do not have the file.

    Raises:
        ConfigError: there is no such profile, or its file cannot be read.
    """
    environ = dict(os.environ)
    if not (needs_s3(config) or any(map(is_s3, config.model_directories))):
        return environ
    for name in _ENDPOINTS:
        environ.pop(name, None)
    try:
        if found := s3_endpoint():
            environ[_ENDPOINTS[0]] = found
            environ[_REGIONS[0]] = s3_region()  # on AWS a bucket in another region is found by itself
    except OSError as exc:
        raise ConfigError(f"S3 cannot be used: {exc}") from exc
    return environ


def carried_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that workers on other machines need, too; nothing secret among them."""
    names = (*_REGIONS, *_ENDPOINTS, _ANONYMOUS, _ANONYMOUS_BUCKETS)
    # In front of an @ there may be a password.
    return {name: environ[name] for name in names if environ.get(name) and "@" not in environ[name]}


def s3a_settings(config: Config, hadoop_version: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the Hadoop settings for S3: those of conf/s3a.conf, and those that depend on the place.

    Args:
        config: of the run.
        hadoop_version: of Spark's client, as "3.4.2".
        environ: as `store_environment` has it.
    """
    values = {
        name.removeprefix(_HADOOP): value for name, value in _conf().items() if name.startswith(_HADOOP)
    }
    chain = _CHAIN_OF_SDK_1 if hadoop_version.startswith("3.3.") else _CHAIN
    providers = (_NO_CREDENTIALS,) if config.anonymous else (*_PROVIDERS, chain)
    values["fs.s3a.aws.credentials.provider"] = ",".join(providers)
    for bucket in config.anonymous_buckets:
        values[f"fs.s3a.bucket.{bucket}.aws.credentials.provider"] = _NO_CREDENTIALS
    endpoint = next((environ[name] for name in _ENDPOINTS if environ.get(name)), None)
    if endpoint:
        values["fs.s3a.endpoint"] = endpoint
        values["fs.s3a.path.style.access"] = "true"  # most have no host name for each bucket
        values["fs.s3a.connection.ssl.enabled"] = str(not endpoint.lower().startswith("http://")).lower()
    regions = (config.aws_region, *(environ.get(name) for name in _REGIONS))
    if region := next(filter(None, regions), None):
        values["fs.s3a.endpoint.region"] = region
    return values


def committer_classes() -> dict[str, str]:
    """Return Spark's settings for S3A's committers, out of conf/s3a.conf."""
    return {name: value for name, value in _conf().items() if not name.startswith(_HADOOP)}


def committer_of(success: str) -> str | None:
    """Return the committer that a _SUCCESS file names; None if it is empty: the files were renamed.

    Args:
        success: the content of the file that a job leaves in its folder; S3A's committers write JSON.
    """
    try:
        told = json.loads(success)
    except ValueError:
        return None
    return str(told["committer"]) if isinstance(told, dict) and "committer" in told else None


def _conf() -> dict[str, str]:
    return read_properties(str(conf_folder() / "s3a.conf"))
