"""Which jars fit which Spark, whether they are there already, and fetching them once."""

import os
from pathlib import Path

import pytest

from spark_embed.errors import ConfigError
from spark_embed.platforms import platform
from spark_embed.spark.s3 import jars as s3_jars
from spark_embed.spark.s3 import maven
from spark_embed.spark.s3.jars import are_jars_there, find_packages, spark_home
from spark_embed.spark.s3.maven import fetch_jars

# pyspark, its Scala, its Hadoop; then the committers and the AWS SDK that go with it.
VERSIONS = [
    ("3.5.9", "2.12", "3.3.4", "3.5.8", None),
    ("4.0.5", "2.13", "3.4.1", "4.0.2", "2.24.8"),
    ("4.1.4", "2.13", "3.4.2", "4.1.2", "2.29.52"),
    ("4.2.1", "2.13", "3.5.0", "4.1.2", "2.35.5"),
    ("4.3.0", "2.13", "3.5.0", "4.1.2", "2.35.5"),
]

# Stands for spark-submit: puts a jar where Ivy would, and notes that it ran.
SPARK_SUBMIT = """#!/bin/sh
echo "$@" >> {home}/calls
for word in "$@"; do case $word in spark.jars.ivy=*) folder=${{word#*=}};; esac; done
mkdir "$folder/jars" "$folder/cache" && touch "$folder/jars/some.jar"
{end}
"""


@pytest.fixture
def make_home(tmp_path):
    """Make the folder of a Spark: its jars by name, and a spark-submit that ends as told."""

    def make_home(jars=(), end="true") -> str:
        home = tmp_path / "spark"
        for folder in ("jars", "bin", "conf"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        for name in jars:
            (home / "jars" / name).touch()
        script = home / "bin" / "spark-submit"
        script.write_text(SPARK_SUBMIT.format(home=home, end=end))
        script.chmod(0o755)
        return str(home)

    return make_home


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Where jars are kept during a test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/spark_embed/jars"


@pytest.mark.parametrize(("spark", "scala", "hadoop", "cloud", "sdk"), VERSIONS)
def test_the_slim_set_fits_the_spark(make_home, spark, scala, hadoop, cloud, sdk):
    home = make_home([f"hadoop-client-api-{hadoop}.jar", f"spark-core_{scala}-{spark}.jar"])
    found = find_packages(home, "slim")
    ours = (
        f"org.apache.hadoop:hadoop-aws:{hadoop}",
        f"org.apache.spark:spark-hadoop-cloud_{scala}:{cloud}",
    )
    assert found.packages[:2] == ours
    assert {name.split(":")[2] for name in found.packages[2:]} == ({sdk} if sdk else set())
    assert ("software.amazon.awssdk:bundle" in found.excludes) == (sdk is not None)
    assert find_packages(home, "full").packages == ours
    assert "software.amazon.awssdk:bundle" not in find_packages(home, "full").excludes


@pytest.mark.parametrize(
    "jars",
    [[], ["hadoop-client-api-3.9.0.jar", "spark-core_2.13-4.1.0.jar"], ["hadoop-client-api-3.4.2.jar"]],
)
def test_a_spark_that_nobody_knows_is_told(make_home, jars):
    with pytest.raises(ConfigError, match=r"not known which jars fit .* --s3_jars none"):
        find_packages(make_home(jars), "slim")


def test_the_installed_spark_is_known():
    assert find_packages(spark_home(), "slim").packages[0].startswith("org.apache.hadoop:hadoop-aws:")


def test_jars_that_are_there_are_found(make_home, tmp_path):
    home = make_home(["spark-core_2.13-4.1.4.jar"])
    assert not are_jars_there(home, {})
    (tmp_path / "more").mkdir()
    (tmp_path / "more/org.apache.hadoop_hadoop-aws-3.4.2.jar").touch()
    assert are_jars_there(home, {s3_jars.CLASS_PATH: f"/nowhere:{tmp_path}/more/*"})
    assert are_jars_there(home, {s3_jars.CLASS_PATH: "/x/hadoop-aws-3.4.2.jar"})
    assert are_jars_there(home, {"PYSPARK_SUBMIT_ARGS": "--packages a.b:hadoop-aws:3.4.2 pyspark-shell"})
    defaults = Path(home, "conf/spark-defaults.conf")
    defaults.write_text("# spark.jars.packages org.apache.hadoop:hadoop-aws:3.4.2\n")
    assert not are_jars_there(home, {})
    defaults.write_text("spark.jars.packages org.apache.hadoop:hadoop-aws:3.4.2\n")
    assert are_jars_there(home, {})
    assert not are_jars_there(home, {"SPARK_CONF_DIR": str(tmp_path)})
    defaults.unlink()
    (Path(home) / "jars/hadoop-aws-3.4.2.jar").touch()
    assert are_jars_there(home, {})


@pytest.mark.parametrize("before", [None, "/own/*"])
def test_only_the_jvm_gets_the_jars(monkeypatch, before):
    monkeypatch.setenv(s3_jars.CLASS_PATH, before or "")
    if before is None:
        monkeypatch.delenv(s3_jars.CLASS_PATH)
    with s3_jars.on_class_path([]):
        assert os.environ.get(s3_jars.CLASS_PATH) == before
    with s3_jars.on_class_path(["/a.jar", "/b.jar"]):
        assert os.environ[s3_jars.CLASS_PATH] == ":".join(filter(None, [before, "/a.jar", "/b.jar"]))
    assert os.environ.get(s3_jars.CLASS_PATH) == before


def test_jars_are_fetched_once(make_home, cache):
    home = make_home()
    jars = fetch_jars(home, ["g:hadoop-aws:1"], ["x:*"])
    assert [os.path.basename(jar) for jar in jars] == ["some.jar"]
    assert fetch_jars(home, ["g:hadoop-aws:1"], ["x:*"]) == jars
    calls = Path(home, "calls").read_text().splitlines()
    assert len(calls) == 1
    assert "--packages g:hadoop-aws:1 --exclude-packages x:*" in calls[0]
    assert fetch_jars(home, ["g:hadoop-aws:2"], ["x:*"]) != jars
    assert sorted(path.name[:12] for path in cache.iterdir()) == ["hadoop-aws-1", "hadoop-aws-2"]


def test_two_runs_that_fetch_the_same_do_not_mind(make_home, cache, monkeypatch):
    home = make_home()
    run_ivy = maven._run_ivy

    def other_is_first(*args):
        monkeypatch.setattr(maven, "_run_ivy", run_ivy)
        fetch_jars(home, ["g:hadoop-aws:1"], [])
        run_ivy(*args)

    monkeypatch.setattr(maven, "_run_ivy", other_is_first)
    assert len(fetch_jars(home, ["g:hadoop-aws:1"], [])) == 1
    assert len(list(cache.iterdir())) == 1


def test_what_ivy_says_becomes_one_line(make_home, cache):
    said = (
        "\tHost maven.example not found. url=https://maven.example/x.pom\n\t\t::          UNRESOLVED"
        '\n\t\t:: g#hadoop-aws;1: not found\n\n:: USE VERBOSE\nException in thread "main" java.lang.Error: no'
    )
    home = make_home(end=f"printf '%s' '{said}' >&2; exit 1")
    with pytest.raises(ConfigError) as caught:
        fetch_jars(home, ["g:hadoop-aws:1"], [])
    assert "g:hadoop-aws:1 not found; Host maven.example not found" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (cache / "failed.log").read_text() == said
    assert [path.name for path in cache.iterdir()] == ["failed.log"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('Exception in thread "main" java.net.SocketException: no network\n\tat x\n', "no network"),
        ("sh: java: not found\n", "sh: java: not found"),
        ("", "no word of why"),
    ],
)
def test_a_failure_of_another_kind_is_told_too(text, reason):
    assert maven._reason(text).endswith(reason)


def test_a_cache_that_cannot_be_written_is_told(make_home, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="XDG_CACHE_HOME may name another"):
        fetch_jars(make_home(), ["g:hadoop-aws:1"], [])


@pytest.mark.parametrize(
    ("environ", "folder", "expected"),
    [
        ({}, None, None),
        ({"DATABRICKS_RUNTIME_VERSION": "17.3"}, None, "databricks"),
        ({"SERVERLESS_EMR_JOB_ID": "1"}, None, "emr"),
        ({}, "emr/instance-controller", "emr"),
        ({}, "usr/share/aws/emr", "emr"),
    ],
)
def test_platforms_are_known_by_their_signs(tmp_path, environ, folder, expected):
    (tmp_path / (folder or "")).mkdir(parents=True, exist_ok=True)
    assert platform(environ, str(tmp_path)) == expected
