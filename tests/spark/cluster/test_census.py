"""What executors are: asked by tasks before the model, told in one line each."""

import re
import socket
import sys
import tomllib
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import pytest
from pyspark import SparkConf

from spark_embed.config import Config
from spark_embed.errors import ConfigError, ModelError
from spark_embed.spark import session
from spark_embed.spark.cluster import census
from spark_embed.spark.cluster.census import ask_executors, check_cluster, tell
from spark_embed.spark.cluster.conf import Finding
from spark_embed.spark.cluster.executors import Executor, check_executors
from spark_embed.spark.settings import settings, table_settings

from support.checkout import REPOSITORY
from support.commands import run_command
from support.waiting import wait_until

HERE = Executor("driver", "driver 1", {"spark-embed": "0.1.0", "torch": "2.15"})
ONE = replace(HERE, host="one", name="one 1", python="/bin/p3, 3.11.2")
TWO = replace(HERE, host="two", name="two 1", python="/bin/p3, 3.11.2")
GPUS = {"spark.executor.resource.gpu.amount": "1", "spark.task.resource.gpu.amount": "1"}


def with_versions(executor: Executor, **versions: str | None) -> Executor:
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    return replace(executor, versions={**executor.versions, **named})


ONE_TASK = {"spark.task.cpus": "8"}
SHARED = "4 tasks at once share a GPU on one"
TWO_OF_ONE = [replace(ONE, n_gpus=2), replace(ONE, n_gpus=2, name="one 2")]


@pytest.mark.parametrize(
    ("seen", "conf", "error", "said"),
    [
        ([ONE, TWO], {}, None, None),
        (
            [ONE, with_versions(TWO, torch=None)],
            {},
            ConfigError,
            "on two (/bin/p3, 3.11.2) has no torch: inst",
        ),
        (
            [ONE, replace(TWO, broken={"torch": "OSError: no lib"})],
            {},
            ConfigError,
            "import it: OSError: no lib;",
        ),
        ([with_versions(ONE, torch="2.4"), TWO], {}, None, "torch is 2.4 on one, 2.15 on two: vectors"),
        ([with_versions(ONE, torch="2.15+cu")], {}, None, None),  # the driver's is none of the model's
        ([with_versions(ONE, torch="")], {}, None, None),  # who knows
        ([with_versions(ONE, spark_embed="0.2.0")], {}, ConfigError, "0.2.0 on one, and 0.1.0 here: install"),
        ([replace(ONE, n_gpus=1), TWO], ONE_TASK, None, "1 of 2 executors have no GPU (two): all are used"),
        ([replace(ONE, addresses=["0"]), TWO], GPUS | ONE_TASK, None, "1 of 2 executors have no GPU (two)"),
        ([replace(ONE, n_gpus=1)], {"spark.executor.cores": "4"}, None, SHARED),
        ([replace(ONE, n_gpus=1)], ONE_TASK, None, None),
        (TWO_OF_ONE, ONE_TASK, None, "2 tasks at once share a GPU on one"),
        ([replace(ONE, n_gpus=1, addresses=["0"])], GPUS, None, "set spark.task.cpus 8"),  # by what there is
    ],
)
def test_what_executors_are_is_told_in_one_line(seen, conf, error, said):
    found = check_executors(conf, HERE, seen, 8 * len(seen), require_gpu=False)
    assert [finding.error for finding in found] == ([error] if said else [])
    for finding in found:
        assert said in finding.text


def test_an_executor_without_a_gpu_stops_a_run_that_requires_one():
    seen = [replace(ONE, n_gpus=1), TWO]
    (found,) = check_executors({"spark.task.cpus": "8"}, HERE, seen, 16, require_gpu=True)
    assert found.error is ModelError
    assert found.text.startswith("--require_gpu true: 1 of 2 executors have no GPU (two)")


def test_a_driver_without_torch_is_no_fault():
    assert check_executors({}, with_versions(HERE, torch=None), [ONE], 8, require_gpu=False) == []


def test_what_stops_a_run_is_told_before_what_does_not(log):
    warning, stop = Finding("a warning"), Finding("a stop", ConfigError)
    tell([warning])
    with pytest.raises(ConfigError, match=r"^a stop$"):
        tell([warning, stop])
    assert log.messages == ["a warning"]


@pytest.fixture
def elsewhere(monkeypatch):
    """Let this machine's session pass for a cluster's."""
    monkeypatch.setattr(census, "is_local", lambda spark: False)


def test_a_task_sees_what_this_process_does(spark):
    (seen,) = ask_executors(spark)
    assert seen.versions == census.look().versions
    assert seen.versions["torch"] == version("torch")
    assert seen.host == census.look().host
    assert seen.python == f"{sys.executable}, {'.'.join(map(str, sys.version_info[:3]))}"
    assert (seen.lacks, seen.broken) == ([], {})
    (seen,) = ask_executors(spark, ["/no/such/folder", "/"])
    assert seen.lacks == ["/no/such/folder"]


def test_all_that_the_package_depends_on_is_imported_by_those_who_are_asked():
    """But for Spark's own half, what reads a YAML file and what shows progress: the driver's."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    names = {re.split("[<>=]", dependency)[0] for dependency in dependencies}
    assert names - census._MODULES.keys() == {"pyspark", "pyyaml", "tqdm"}


def test_a_package_that_is_not_there_is_told_from_one_that_is_broken(monkeypatch, tmp_path):
    (tmp_path / "broken_one.py").write_text("import ctypes\nctypes.CDLL('libcudart-none.so')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(census, "_MODULES", {"one": "broken_one", "two": "no_such_module", "three": "json"})
    seen = census._look([])
    assert seen["versions"] == {"one": "", "two": None, "three": ""}
    assert list(seen["broken"]) == ["one"]
    assert seen["broken"]["one"].startswith("OSError: libcudart-none.so: cannot open shared object file")


@pytest.fixture
def broken_torch(tmp_path) -> str:
    """A Python with a torch that lacks a library of the machine's."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(census.find_spec("torch").origin).parents[1].iterdir():
        if path.name.partition("-")[0] != "torch":
            (packages / path.name).symlink_to(path)
    (packages / "torch.py").write_text("import ctypes\nctypes.CDLL('libcudart-none.so')")
    python = tmp_path / "python3"
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH="{packages}:{REPOSITORY}:$PYTHONPATH" exec {sys._base_executable} -S "$@"\n'
    )
    python.chmod(0o755)
    return str(python)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("flag", "value", "error", "cure"),
    [
        ("model_directory", "file://{}", ModelError, "copy it to every machine"),
        ("model_directory", "openai/clip, {}", ModelError, "copy it to every machine"),
        (
            "input_dir",
            "file://{}",
            ConfigError,
            "a plain path is one that all machines mount; else name a folder in S3",
        ),
        ("output_dir", "file://{}", ConfigError, "a plain path is one that all machines mount"),
    ],
)
def test_a_folder_that_is_on_the_driver_alone_is_told(spark, monkeypatch, tmp_path, flag, value, error, cure):
    def run_tasks(spark, function, items):
        seen = census.look()
        return [{**asdict(seen), "host": "far", "lacks": items[0]}]

    monkeypatch.setattr(census, "run_tasks", run_tasks)
    config = Config(**{"input_dir": "s3://bucket/in", "output_dir": "/not/yet", flag: value.format(tmp_path)})
    with pytest.raises(
        error, match=f"^--{flag} {tmp_path}: there is no such folder on far, only here: {cure}"
    ):
        check_cluster(spark, config)


def test_who_waits_long_for_the_first_executor_is_told_why(log, monkeypatch, spark):
    monkeypatch.setattr(census, "_PATIENCE_S", 0)

    def run_tasks(*_):
        wait_until(lambda: log.messages, "a line")
        return []

    monkeypatch.setattr(census, "run_tasks", run_tasks)
    assert ask_executors(spark) == []
    assert "no executor has run a task for 0 s" in log.messages[0]


def test_arrow_batches_are_small_whatever_the_user_has_set(spark):
    def sizes(batches):
        return (batch.select([0]).slice(0, 0).from_pydict({"n": [len(batch)]}) for batch in batches)

    name = "spark.sql.execution.arrow.maxRecordsPerBatch"
    with settings(spark, {name: "10000"}):
        rows = spark.range(0, 2000, 1, 1)
        assert max(row.n for row in rows.mapInArrow(sizes, "n long").collect()) == 2000
        with settings(spark, table_settings(110_000)):
            assert max(row.n for row in rows.mapInArrow(sizes, "n long").collect()) == 153
        assert spark.conf.get(name) == "10000"


LOCAL_GPU = "spark.task.resource.gpu.amount 1\nspark.executor.resource.gpu.amount 1\n"


@pytest.mark.slow
def test_gpus_asked_for_in_local_mode_end_a_run_before_spark_waits_for_ever(tmp_path, shards):
    (tmp_path / "gpu.properties").write_text(LOCAL_GPU)
    done = submit("local[2]", shards, tmp_path, "--properties-file", tmp_path / "gpu.properties")
    assert done.returncode == 2
    assert "ERROR   spark.task.resource.gpu.amount 1 with master local[2]: in local mode" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_executor_of_a_cluster_is_asked(tmp_path, shards, broken_torch):
    """The fault of its Python ends the run, what can be borne is told before."""
    settings = ("--conf", f"spark.pyspark.python={broken_torch}", "--conf", "spark.speculation=true")
    done = submit("local-cluster[1,1,1024]", shards, tmp_path, *settings)
    assert done.returncode == 2, done.stdout[-3000:]
    said = done.stdout.splitlines()[-1]
    assert f"{socket.gethostname()} ({sys._base_executable}, 3." in said
    assert "has torch, but cannot import it: OSError: libcudart-none.so: cannot open shared object" in said
    assert "WARNING spark.speculation true: " in done.stdout
    assert not (tmp_path / "out").exists()


def submit(master, input_dir, folder, *arguments):
    return run_command(
        "spark-submit", "--master", master, *arguments, REPOSITORY / "jobs/embed.py",
        "--input_dir", input_dir, "--output_dir", folder / "out", cwd=folder,
    )  # fmt: skip


def test_what_this_process_has_been_told_of_the_hub_goes_to_executors(spark, monkeypatch):
    given = SparkConf(loadDefaults=False).setMaster("spark://host:7077")
    monkeypatch.setattr(session, "SparkConf", lambda: given)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(session, "stop_early_daemon", lambda: None)  # it is that of other tests
    conf = dict(session._make_conf(Config(input_dir="in", output_dir="out"), []).getAll())
    assert conf["spark.executorEnv.HF_HUB_OFFLINE"] == "1"
    assert not any(name.endswith(("ENDPOINT", "TOKEN")) for name in conf)
