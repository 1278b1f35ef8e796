"""A standalone cluster on the loopback: a master and workers, each a JVM, and with a GPU that is none."""

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from support.commands import BIN
from support.crashes import await_

# What small heaps and no second compiler save: half a second and 100 MB for each JVM.
_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xss512k"
_DAEMON_MB = 192
_WORKER_MB = 1024
_START_S = 60


class Cluster:
    """A master and workers of one core and one GPU each; they end with the `with` block.

    Spark without its start scripts, which pip's pyspark does not have: `spark-class` and a class.

    Args:
        folder: a new one, for logs and the executors' folders.
        n_workers: how many workers there are.
        properties: further settings of master and workers.
    """

    def __init__(self, folder: Path, n_workers: int = 3, properties: Mapping[str, str] | None = None):
        self.folder = folder
        self.workers: list[subprocess.Popen] = []
        self._started: list[subprocess.Popen] = []
        folder.mkdir(parents=True)
        gpu = folder / "find-gpu.sh"
        gpu.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["0"]}'\n""")
        gpu.chmod(0o755)
        settings = {
            "spark.master.rest.enabled": "false",
            "spark.worker.resource.gpu.amount": "1",
            "spark.worker.resource.gpu.discoveryScript": str(gpu),
            **(properties or {}),
        }
        self._properties = folder / "cluster.conf"
        self._properties.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        self._n_workers = n_workers

    def __enter__(self) -> "Cluster":
        try:
            self.start_master()
            for _ in range(self._n_workers):
                self.add_worker()
            self.await_workers(self._n_workers)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start_master(self, port: int = 0) -> None:
        """Start a master and wait until it can be asked."""
        log = self._log("master")
        self.master = self._start("master.Master", log, "--port", port)
        found = re.compile(r"Starting Spark master at (spark://\S+)|Bound MasterWebUI to .*(http://\S+)")
        told = await_(lambda: _both(found.findall(log.read_text())), "a master", _START_S)
        self.url, self._web = told

    def add_worker(self) -> subprocess.Popen:
        """Start a worker; `await_workers` waits for it."""
        name = f"worker-{len(self.workers)}"
        size = ("--cores", 1, "--memory", f"{_WORKER_MB}m", "--work-dir", self.folder / name)
        self.workers.append(self._start("worker.Worker", self._log(name), *size, self.url))
        return self.workers[-1]

    def await_workers(self, number: int) -> None:
        """Wait until the master knows of so many workers that are alive."""
        await_(lambda: self.state()["aliveworkers"] == number, f"{number} workers", _START_S)

    def state(self) -> dict:
        """Return what the master says of its workers and applications."""
        with urllib.request.urlopen(f"{self._web}/json/", timeout=_START_S) as answer:
            return json.load(answer)

    def end(self) -> None:
        """End what was started, executors and their Python workers included, and wait for it."""
        for process in self._started:
            kill_all(process)
            process.wait()

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _start(self, kind: str, log: Path, *arguments: object) -> subprocess.Popen:
        """Start a daemon, in a session of its own as a node has it, without any setting of this process."""
        unwanted = ("SPARK_", "PYSPARK_", "PYTHONPATH", "AWS_", "CRASH_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        environment |= {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": f"{_DAEMON_MB}m"}
        environment["SPARK_DAEMON_JAVA_OPTS"] = _JVM
        environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
        places = ("--host", "127.0.0.1", "--webui-port", 0, "--properties-file", self._properties)
        command = [BIN / "spark-class", f"org.apache.spark.deploy.{kind}", *places, *arguments]
        with log.open("a") as file:
            process = subprocess.Popen(
                list(map(str, command)),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._started.append(process)
        return process


def kill_all(process: subprocess.Popen) -> None:
    """Kill -9 of a process and of all that it has started: a node that is gone."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(process.pid)
        for one in [first, *first.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.kill()


def _both(found: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """Return the address and the page, once there are both."""
    addresses, pages = [one for one, _ in found if one], [one for _, one in found if one]
    return (addresses[-1], pages[-1]) if addresses and pages else None
