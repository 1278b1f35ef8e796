"""What Spark and its workers get to know of S3, and that a session of its own then reads and writes there."""

import json
import os
import subprocess
import sys

import pytest

from spark_embed.config import Config
from spark_embed.spark.s3.s3a import (
    carried_environment,
    committer_classes,
    committer_of,
    export_s3_environment,
    needs_s3,
    s3a_settings,
    store_environment,
)
from spark_embed.spark.s3.session import adopt_session, bring_jars, committer_settings, is_missing, use_s3
from spark_embed.spark.session import class_archive

PROVIDER = "fs.s3a.aws.credentials.provider"
ANONYMOUS = "org.apache.hadoop.fs.s3a.AnonymousAWSCredentialsProvider"


def make_config(**options) -> Config:
    return Config(**{"input_dir": "in", "output_dir": "s3://bucket/out", **options})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"output_dir": "/out"}, False),
        ({"output_dir": "file:///s3"}, False),
        ({"output_dir": "/out", "model_directory": "s3://bucket/model"}, False),
        ({}, True),
        ({"input_dir": "s3a://bucket/in", "output_dir": "out"}, True),
        ({"input_dir": "S3N://bucket/in", "output_dir": "out"}, True),
        ({"allowed_roots": ("/a", "s3://bucket")}, True),
    ],
)
def test_only_paths_of_the_jvm_need_s3(options, expected):
    assert needs_s3(make_config(**options)) == expected


def test_flags_reach_the_workers_by_the_environment(monkeypatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "SPARK_EMBED_ANONYMOUS"):
        monkeypatch.setenv(name, "before")
    monkeypatch.setenv("SPARK_EMBED_ANONYMOUS_BUCKETS", "")
    export_s3_environment(make_config(aws_region="eu-west-3", anonymous_buckets="a, b"))
    assert (os.environ["AWS_REGION"], os.environ["AWS_DEFAULT_REGION"]) == ("eu-west-3", "eu-west-3")
    assert os.environ["SPARK_EMBED_ANONYMOUS_BUCKETS"] == "a,b"
    assert "SPARK_EMBED_ANONYMOUS" not in os.environ
    export_s3_environment(make_config(anonymous=True))
    assert os.environ["AWS_REGION"] == "eu-west-3"
    assert os.environ["SPARK_EMBED_ANONYMOUS"] == "true"
    assert "SPARK_EMBED_ANONYMOUS_BUCKETS" not in os.environ


def test_nothing_secret_is_carried_to_other_machines():
    carried = {"AWS_REGION": "r", "AWS_ENDPOINT_URL_S3": "http://store:9", "SPARK_EMBED_ANONYMOUS": "true"}
    secret = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
    password = {"AWS_ENDPOINT_URL": "http://me:password@store"}
    assert carried_environment({**carried, **secret, **password, "HOME": "/"}) == carried


@pytest.mark.parametrize(("named", "region"), [("", "us-east-1"), ("region = eu-north-1", "eu-north-1")])
def test_what_a_profile_says_of_another_store_is_put_into_the_environment(
    monkeypatch, tmp_path, named, region
):
    for name in (
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_PROFILE",
    ):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = http://store:9\n{named}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    told = carried_environment(store_environment(make_config(input_dir="s3://bucket/in")))
    assert (told["AWS_ENDPOINT_URL_S3"], told["AWS_REGION"]) == ("http://store:9", region)
    assert "AWS_REGION" not in carried_environment(
        store_environment(Config(input_dir="/in", output_dir="/out"))
    )


def test_on_aws_only_what_is_known_is_set():
    values = s3a_settings(make_config(), "3.4.2", {})
    assert not {"fs.s3a.endpoint", "fs.s3a.endpoint.region", "fs.s3a.path.style.access"} & set(values)
    assert values["fs.s3a.committer.name"] == "magic"
    assert values[PROVIDER].endswith(",software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider")
    assert s3a_settings(make_config(), "3.3.4", {})[PROVIDER].endswith(".DefaultAWSCredentialsProviderChain")
    assert s3a_settings(make_config(), "3.4.2", {"AWS_DEFAULT_REGION": "r"})["fs.s3a.endpoint.region"] == "r"


@pytest.mark.parametrize(
    ("environ", "options", "endpoint", "region", "ssl"),
    [
        ({"AWS_ENDPOINT_URL": "http://a:1", "AWS_REGION": "r"}, {}, "http://a:1", "r", "false"),
        (
            {"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "https://b", "AWS_REGION": "r"},
            {},
            "https://b",
            "r",
            "true",
        ),
        ({"AWS_ENDPOINT_URL_S3": "https://b", "AWS_REGION": "r"}, {}, "https://b", "r", "true"),
        (
            {"AWS_ENDPOINT_URL_S3": "https://b", "AWS_REGION": "r"},
            {"aws_region": "q"},
            "https://b",
            "q",
            "true",
        ),
    ],
)
def test_another_store_is_found_by_the_environment(environ, options, endpoint, region, ssl):
    values = s3a_settings(make_config(**options), "3.4.2", environ)
    names = (
        "fs.s3a.endpoint",
        "fs.s3a.endpoint.region",
        "fs.s3a.connection.ssl.enabled",
        "fs.s3a.path.style.access",
    )
    assert [values[name] for name in names] == [endpoint, region, ssl, "true"]


def test_anonymous_is_for_all_buckets_or_for_some():
    assert s3a_settings(make_config(anonymous=True), "3.4.2", {})[PROVIDER] == ANONYMOUS
    values = s3a_settings(make_config(anonymous_buckets="open,wide"), "3.4.2", {})
    assert values["fs.s3a.bucket.open.aws.credentials.provider"] == ANONYMOUS
    assert values["fs.s3a.bucket.wide.aws.credentials.provider"] == ANONYMOUS
    assert values[PROVIDER] != ANONYMOUS


def test_the_conf_file_holds_no_unit_that_hadoop_3_3_cannot_read():
    """It takes a number of milliseconds for these."""
    values = s3a_settings(make_config(), "3.3.4", {})
    assert all(value.isdigit() for name, value in values.items() if name.endswith(".timeout"))
    assert set(committer_classes()) == {
        "spark.sql.sources.commitProtocolClass",
        "spark.sql.parquet.output.committer.class",
    }


@pytest.mark.parametrize(
    ("success", "expected"),
    [
        ('{"name": "SuccessData/1", "committer": "magic"}', "magic"),
        ("", None),
        ("{}", None),
        ("[1]", None),
        ("x", None),
    ],
)
def test_a_success_file_names_its_committer(success, expected):
    assert committer_of(success) == expected


@pytest.mark.parametrize("variable", ["DATABRICKS_RUNTIME_VERSION", "SERVERLESS_EMR_JOB_ID"])
def test_platforms_are_left_alone(monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    untouched = object()
    use_s3(untouched, make_config())
    assert committer_settings(untouched, make_config()) == {}
    assert bring_jars(make_config()) == []


def test_nothing_is_done_for_local_paths():
    use_s3(object(), make_config(output_dir="/out"))
    assert bring_jars(make_config(output_dir="/out")) == []


def test_what_somebody_has_set_is_told_from_defaults(spark):
    hadoop = spark._jvm.org.apache.hadoop.conf.Configuration()
    assert is_missing(hadoop, "fs.s3a.retry.limit")  # core-default.xml
    assert is_missing(hadoop, "fs.s3a.path.style.access.of.nobody")
    hadoop.set("fs.s3a.retry.limit", "3")
    assert not is_missing(hadoop, "fs.s3a.retry.limit")
    hadoop.set("fs.s3a.retry.limit", "3", "spark_embed")
    assert is_missing(hadoop, "fs.s3a.retry.limit")
    hadoop.set("fs.s3a.endpoint", "http://a", "Set by Spark on host from AWS_ENDPOINT_URL")
    assert is_missing(hadoop, "fs.s3a.endpoint")
    hadoop.set("fs.s3a.endpoint", "http://a", "core-site.xml")
    assert not is_missing(hadoop, "fs.s3a.endpoint")


def test_a_session_of_somebody_else_gets_the_environment_only_where_it_differs(spark, monkeypatch):
    monkeypatch.setattr(spark.sparkContext, "environment", dict(spark.sparkContext.environment))
    adopt_session(spark, make_config(output_dir="/out"))
    assert "AWS_ENDPOINT_URL_S3" not in spark.sparkContext.environment  # the JVM's, if any
    monkeypatch.setenv("SPARK_EMBED_ANONYMOUS_BUCKETS", "b")
    adopt_session(spark, make_config(output_dir="/out"))
    assert spark.sparkContext.environment["SPARK_EMBED_ANONYMOUS_BUCKETS"] == "b"


def test_a_committer_that_somebody_has_chosen_stays(spark):
    name = next(iter(committer_classes()))
    before = spark.conf.get(name, None)
    spark.conf.set(name, "org.apache.spark.internal.io.HadoopMapReduceCommitProtocol")
    try:
        assert committer_settings(spark, make_config()) == {}
    finally:
        spark.conf.set(name, before) if before else spark.conf.unset(name)


# In a process of its own: a session finds S3 by itself, and what Spark writes down of it is looked through.
PROGRAM = """
import json, sys
from spark_embed.config import Config
from spark_embed.spark.s3.session import committer_settings
from spark_embed.spark.session import class_archive, make_session, stop_session
from spark_embed.storage import read_text
from spark_embed.spark.settings import settings
from pyspark import SparkContext

config = Config(input_dir="in", output_dir=sys.argv[1], num_workers=1)
spark = make_session(config)
folder = sys.argv[1].replace("s3://", "s3a://")
with settings(spark, committer_settings(spark, config)):
    spark.range(100).write.parquet(folder)
n_rows = spark.read.parquet(folder).count()
maps = open(f"/proc/{SparkContext._gateway.proc.pid}/maps").read()
spark.stop()
success = read_text(folder + "/_SUCCESS")
print(json.dumps({"rows": n_rows, "archive": str(class_archive()) in maps, "success": success}))
"""


# No task of ours runs, so nothing but Spark's own daemon is needed.
OPTIONS = f"{os.environ['SPARK_SUBMIT_OPTS']} -Dspark.python.daemon.module=pyspark.daemon"


def run_program(*argv, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", *argv]
    env = {**os.environ, "SPARK_SUBMIT_OPTS": OPTIONS, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=200)


@pytest.mark.slow
def test_a_session_writes_by_the_magic_committer_and_no_secret_down(s3_server, bucket, tmp_path):
    events = {"enabled": "true", "dir": tmp_path.as_uri(), "compress": "false"}
    log = " ".join(f"-Dspark.eventLog.{name}={value}" for name, value in events.items())
    options = f"{OPTIONS} {log} -Dspark.log.level=INFO"
    done = run_program(PROGRAM, f"s3://{bucket}/out", SPARK_SUBMIT_OPTS=options)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["rows"] == 100
    assert committer_of(told["success"]) == "magic"
    assert told["archive"] == class_archive().exists()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b'"fs.s3a.access.key":"*********(redacted)"' in written
    for secret in (s3_server.access_key, s3_server.secret_key):
        assert secret.encode() not in written
        assert secret not in done.stderr + done.stdout
    assert ":: loading settings ::" not in done.stderr


@pytest.mark.slow
def test_missing_jars_are_one_line():
    done = run_program(PROGRAM.replace("num_workers=1", "s3_jars='none'"), "s3://bucket/out")
    (line,) = [line for line in done.stderr.splitlines() if "ConfigError: " in line]
    assert "Spark has no jars for S3: leave out --s3_jars none, or start the session with" in line
    assert "spark.jars.packages=org.apache.hadoop:hadoop-aws:" in line
