"""The daemon that imports torch before Spark asks for one: it becomes Spark's, and it never stays behind."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from spark_embed.spark import early_daemon, handover

BIN = Path(sys.executable).parent

# Prints the process id of the early daemon and its address, then waits for a line.
DRIVER = """
import psutil, sys
from spark_embed.spark.early_daemon import start_early_daemon
address = start_early_daemon()
print(psutil.Process().children()[0].pid, address, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def driver():
    """A driver that has started an early daemon: (the driver, the daemon, its address)."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid, address = process.stdout.readline().split()
    yield process, psutil.Process(int(pid)), address
    process.kill()
    process.communicate()


def become_daemon(address: str, python: str = sys.executable) -> subprocess.Popen:
    """Start a daemon as Spark does: it writes its port to its standard output."""
    return subprocess.Popen(
        [python, "-m", "spark_embed.spark.worker_daemon", "pyspark.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, handover.ADDRESS: address},
    )


def end(daemon: subprocess.Popen) -> None:
    """Wait for a daemon to end as Spark ends it."""
    daemon.stdin.close()
    daemon.wait(60)
    daemon.stdout.close()


@pytest.mark.slow
def test_it_becomes_sparks_daemon_and_ends_with_it(driver):
    process, early, address = driver
    daemon = become_daemon(address)
    port = int.from_bytes(daemon.stdout.read(4))
    listening = [connection.laddr.port for connection in early.net_connections("tcp")]
    assert listening == [port]
    process.kill()  # from now on it is Spark's
    process.wait()
    assert early.is_running()
    assert daemon.poll() is None
    end(daemon)
    early.wait(60)
    assert not Path(address).parent.exists()


@pytest.mark.slow
def test_one_python_may_have_two_names(driver):
    _, early, address = driver
    daemon = become_daemon(address, python=str(BIN / "python3"))
    port = int.from_bytes(daemon.stdout.read(4))
    assert [connection.laddr.port for connection in early.net_connections("tcp")] == [port]
    end(daemon)


@pytest.mark.slow
def test_it_ends_with_its_driver_however_that_ends(driver):
    process, early, address = driver
    process.kill()
    early.wait(60)
    assert not Path(address).parent.exists()


@pytest.mark.slow
def test_a_daemon_without_an_early_one_imports_for_itself(tmp_path):
    daemon = become_daemon(str(tmp_path / "nobody"))
    assert int.from_bytes(daemon.stdout.read(4)) > 0
    end(daemon)


@pytest.mark.slow
def test_a_daemon_of_another_python_is_not_replaced(driver, monkeypatch):
    process, early, address = driver
    monkeypatch.setenv(handover.ADDRESS, address)
    monkeypatch.setattr(sys, "prefix", "/another/environment")
    assert not handover.hand_over()
    process.kill()
    early.wait(60)


def test_where_it_cannot_be_started_spark_does_without(monkeypatch, tmp_path):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    address = early_daemon.start_early_daemon.__wrapped__()
    monkeypatch.setenv(handover.ADDRESS, address)
    assert not handover.hand_over()


def test_a_command_starts_one_only_where_it_will_start_spark_itself(monkeypatch):
    monkeypatch.setattr(early_daemon, "start_early_daemon", lambda: pytest.fail("started"))
    monkeypatch.setitem(sys.modules, "pyspark", ModuleType("pyspark"))  # there may be a session
    early_daemon.start_before_spark()
    monkeypatch.delitem(sys.modules, "pyspark")
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "18.0")
    early_daemon.start_before_spark()


@pytest.mark.slow
def test_a_run_leaves_no_process_and_no_folder_behind(shards, tiny_clip, tmp_path):
    (tmp_path / "temp").mkdir()
    command = [
        BIN / "spark-embed", "--input_dir", shards, "--output_dir", tmp_path / "out",
        "--model_directory", tiny_clip, "--num_workers", "1",
    ]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temp")}
    process = psutil.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    family = {}
    for line in process.stderr:
        if "parity:" in line:
            family = {child.pid: child for child in process.children(recursive=True)}
    process.wait()
    process.stderr.close()
    assert len(family) >= 3  # the JVM, the early daemon, a worker
    _, alive = psutil.wait_procs(family.values(), timeout=60)
    assert alive == []
    assert list((tmp_path / "temp").glob("spark_embed-*")) == []
