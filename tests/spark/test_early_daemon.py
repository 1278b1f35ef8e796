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


def become_daemon(address: str) -> subprocess.Popen:
    """Start a daemon as Spark does, here by another name of this Python: it writes its port to stdout."""
    return subprocess.Popen(
        [BIN / "python3", "-m", "spark_embed.spark.worker_daemon", "pyspark.worker"],
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
def test_a_daemon_without_an_early_one_imports_for_itself(tmp_path):
    daemon = become_daemon(str(tmp_path / "nobody"))
    assert int.from_bytes(daemon.stdout.read(4)) > 0
    end(daemon)


@pytest.mark.slow
def test_a_daemon_of_another_python_is_not_replaced_and_the_early_one_ends_with_its_driver(
    driver, monkeypatch
):
    process, early, address = driver
    monkeypatch.setenv(handover.ADDRESS, address)
    monkeypatch.setattr(sys, "prefix", "/another/environment")
    assert not handover.hand_over()
    process.kill()
    early.wait(60)
    assert not Path(address).parent.exists()


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
