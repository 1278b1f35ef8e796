"""The service in a process of its own, on a port of the loopback, as a person starts it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

START_S = 120  # torch is imported, and the machine may be busy


class LiveService:
    """A process of `spark-embed serve`.

    Attributes:
        log: its lines, as JSON has them.
        url: where it listens.
        is_ready: whether it has said that its model is warm.
    """

    def __init__(self, *argv: object, environ: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "spark_embed", "serve", "--port", "0", *map(str, argv)]
        given = {**os.environ, "ENVIRONMENT": "prod", "OMP_NUM_THREADS": "1", **(environ or {})}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=given)
        self.log: list[dict] = []
        self.url = ""
        self.is_ready = False
        self._told = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self) -> "LiveService":
        """Wait until its model is warm."""
        assert self._told.wait(START_S), self.log
        assert self.is_ready, self.log
        return self

    def client(self, address: str = "127.0.0.1", **headers: str) -> httpx.Client:
        """Return a client that comes from an address of the loopback."""
        transport = httpx.HTTPTransport(local_address=address)
        return httpx.Client(base_url=self.url, timeout=60, headers=headers, transport=transport)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join(60)
        return code

    def memory_bytes(self) -> int:
        """Return what the process has in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])

    def _read(self) -> None:
        for line in self.process.stderr:
            try:
                told = json.loads(line)
            except ValueError:
                told = {"message": line.rstrip()}
            self.log.append(told)
            if found := re.search(r"listening on (http://\S+)", told["message"]):
                self.url = found[1]
            if told["message"].startswith("ready: "):
                self.is_ready = True
                self._told.set()
        self._told.set()  # it has ended


@contextmanager
def live_service(*argv: object, environ: dict[str, str] | None = None) -> Iterator[LiveService]:
    """Start a service, and end it with the block."""
    service = LiveService(*argv, environ=environ)
    try:
        yield service.wait()
    finally:
        if service.process.poll() is None:
            service.process.kill()
        service.process.wait(60)
