"""The command as a person types it: exit codes, one clear line."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from spark_embed.cli.commands import COMMANDS, ESTIMATE, find_command
from spark_embed.cli.main import first_cause, main
from spark_embed.logs import start_logging

from support.commands import BIN, run_command


def json_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("{")]


def last_line(said: str) -> str:
    return said.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("command_here")  # it puts the handlers of signals back
def test_a_shard_that_cannot_be_read_is_a_warning_or_an_exit_code(spark, shards, tiny_clip, tmp_path, capsys):
    shutil.copytree(shards, tmp_path / "in")
    (tmp_path / "in/00001.parquet").write_bytes(b"no shard")
    paths = {"input_dir": tmp_path / "in", "output_dir": tmp_path / "out", "model_directory": tiny_clip}
    argv = [f"--{name}={path}" for name, path in paths.items()]
    assert main([*argv, "--fail_on_bad_shard", "false"]) == 0
    warned = capsys.readouterr()
    assert re.search(r"WARNING .*shard 00001\.parquet is left out", warned.err)
    assert "18 rows: 16 embedded, 2 errors" in warned.out
    assert re.search(r"\nPENDING shard 00001\.parquet: .*cannot be read as parquet", warned.out)
    assert main(argv) == 8
    failed = capsys.readouterr()
    said = "1 shards cannot be read; all others are done and published; the first, 000"
    assert said in last_line(failed.err)
    assert "18 rows: 16 embedded, 2 errors" in failed.out


def test_a_failed_spark_job_is_told_by_its_cause():
    lines = [
        "Job aborted due to stage failure: Task 0 in stage 3.0 failed 4 times, most recent failure:",
        '  File "x.py", line 3, in read',
        "spark_embed.errors.StorageError: a.parquet changed while it was being read; run again",
        "    at org.apache.spark.Foo.bar(Foo.scala:1)",
    ]
    assert first_cause(RuntimeError("\n".join(lines))) == lines[2]
    of_connect = ["[PATH_NOT_FOUND] Path does not exist: file:/a.", "", "JVM stacktrace:", "a.B", "\tat a.C"]
    assert first_cause(RuntimeError("\n".join(of_connect))) == of_connect[0]


@pytest.mark.slow
@pytest.mark.usefixtures("command_here")
def test_prod_logs_json_lines_and_a_failed_job_has_its_exit_code(spark, shards, tmp_path, capsys):
    paths = ["--input_dir", str(shards), "--output_dir", str(tmp_path / "out")]
    assert main([*paths, "--env", "prod", "--require_gpu", "true"]) == 3
    done = capsys.readouterr()
    start_logging("dev")
    line = json.loads(last_line(done.err))
    assert line["level"] == "ERROR"
    assert set(line) == {"timestamp", "level", "logger", "message", "fields"}
    entries = map(json.loads, json_lines(done.err))
    found = next(entry for entry in entries if "found 3 parquet shards" in entry["message"])
    assert found["fields"]["n_rows"] == 27
    assert "--require_gpu true: " in line["message"]
    assert "Traceback" not in done.err
    assert done.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("command_here")
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--batchsize", "3"], "did you mean --batch_size?"),
        ([], "--input_dir is required"),
        (["--input_dir", "/no/such", "--output_dir", "b"], "--input_dir /no/such: there is no such folder"),
        (["--input_dir", "/usr", "--output_dir", "/etc/passwd"], "/etc/passwd: is a file"),
        (["--input_dir", "dbfs:/in", "--output_dir", "b"], "shows it as a folder, /dbfs/in"),
        (["--input_dir", "/usr", "--output_dir", "hdfs:/b"], "--output_dir hdfs:/b: hdfs: is not"),
    ],
)
def test_what_is_wrong_is_one_line_with_an_exit_code(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_in_a_process_of_its_own_too(tmp_path):
    argv = ["--input_dir", "/usr", "--output_dir", "b"]
    done = run_command(BIN / "spark-embed", *argv, environ={"JAVA_HOME": "/nowhere"}, cwd=tmp_path)
    assert done.returncode == 2
    assert "Spark needs Java" in last_line(done.stderr)
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def fake_java(tmp_path):
    """A JAVA_HOME whose java says a version of choice."""

    def make(version: str) -> str:
        (tmp_path / "bin").mkdir()
        java = tmp_path / "bin/java"
        java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
        java.chmod(0o755)
        return str(tmp_path)

    return make


@pytest.mark.parametrize("version", ["1.8.0_402", "11.0.22"])
def test_an_old_java_is_told(fake_java, monkeypatch, version):
    from spark_embed.errors import ConfigError
    from spark_embed.spark.machine import check_java

    monkeypatch.setenv("JAVA_HOME", fake_java(version))
    with pytest.raises(ConfigError, match="too old: install Java 17"):
        check_java()


def test_pandas_3_is_told(monkeypatch):
    from spark_embed.errors import ConfigError
    from spark_embed.spark import machine

    monkeypatch.setattr(machine, "version", lambda package: "3.0.1")
    with pytest.raises(ConfigError, match="needs pandas 2"):
        machine.check_pandas()


@pytest.mark.parametrize(
    ("master", "num_workers", "expected"),
    [
        ("local[8]", None, "local[8,4]"),
        ("local[8]", 3, "local[3,4]"),
        ("local", None, "local[1,4]"),
        ("local[2,9]", None, "local[2,9]"),
        ("local[*]", 5, "local[5,4]"),
        ("yarn", 5, "yarn"),
        ("local-cluster[1,2,1024]", 5, "local-cluster[1,2,1024]"),
    ],
)
def test_a_local_master_retries_failed_tasks(master, num_workers, expected):
    from spark_embed.spark.session import local_master

    assert local_master(master, num_workers) == expected


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
def test_all_kinds_of_tasks_share_one_daemon_which_is_started_early(spark):
    from pyspark import SparkContext

    from spark_embed.spark.session import start_worker_daemon

    start_worker_daemon(spark).join(60)
    assert spark.range(1).mapInArrow(lambda batches: batches, "id long").count() == 1
    jvm = SparkContext._gateway.proc.pid
    children = (Path("/proc") / str(jvm) / "task").glob("*/children")
    pids = {pid for file in children for pid in file.read_text().split()}
    daemons = [pid for pid in pids if b"spark_embed.spark.worker_daemon" in read(pid, "cmdline")]
    # Tests of other stores have daemons of their own.
    endpoint = os.environb.get(b"AWS_ENDPOINT_URL_S3", b"")
    assert sum(endpoint in read(pid, "environ") for pid in daemons) == 1


def read(pid: str, name: str) -> bytes:
    return Path("/proc", pid, name).read_bytes()


def test_help_names_every_command_and_each_is_there(capsys):
    names = [name for group in COMMANDS.values() for name in group]
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert [name for name in names if f"  spark-embed {name} " not in said] == []
    for name in names:
        assert name == ESTIMATE or callable(find_command(name).load())
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: spark-embed {name} ")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["serch", "x"], "'serch' is no command; did you mean search?"),
        (["xyzzy"], "'xyzzy' is no command (--help lists them)"),
        (["--out", "x"], "unknown flag --out; did you mean --output_dir?"),
        (["index", ""], "OUTPUT_DIR '': names no folder"),
        (["--output_dir", "x", "photos"], "'photos' does not belong to a flag"),
    ],
)
def test_what_is_no_command_and_no_flag_is_told(argv, said, capsys):
    assert main(argv) == 2
    assert said in last_line(capsys.readouterr().err)
