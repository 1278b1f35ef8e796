"""A real S3 server on the loopback for the tests: versitygw, which `make s3-server` builds."""

import os
import random
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import pytest
from make_go_program import S3_SERVER

from support.s3_store import Store
from support.waiting import PATIENCE_S

SERVER = S3_SERVER.path

# Nothing else is called this: a test can search every file that was written for them.
ACCESS_KEY = "MARKEDACCESSKEYOFROOT"
SECRET_KEY = "MARKED-SECRET-KEY-OF-ROOT"

REGION = "eu-west-1"  # no client's default: one that is not told it is refused, as by AWS


class S3Server(Store):
    """Runs from `with` to its end, over a folder: `folder/buckets/BUCKET/KEY` is a file for each object.

    What it does beyond S3's basics, shown by test_s3_server.py:
    - PutObject and CompleteMultipartUpload honour If-None-Match: * and If-Match, one writer at a time:
      412 where they do not hold, 404 for If-Match of no object. DeleteObject honours If-Match.
    - GetObject and HeadObject honour If-Match and If-None-Match: 412, 304.
    - ListMultipartUploads honours Prefix, ListObjectsV2 pages by at most 1000 keys, with ETags.
    - CRC checksums, in a header or in the trailer of an aws-chunked body, are checked and kept.
    - The region of a signature must be its own: 400.
    - Where there is an object `a` there can be none `a/b`: 409, for they are a file and a folder.
    - It ends the connection after each answer; `BadS3` in front of it keeps that of the client.

    Args:
        folder: holds its buckets and its users; outlives `kill` and `start`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen | None = None
        super().__init__(f"http://127.0.0.1:{self._port}", ACCESS_KEY, SECRET_KEY, REGION)

    def __enter__(self) -> "S3Server":
        for name in ("buckets", "users", "facts"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, on the port and the folder that it always has, and wait until it answers."""
        # Not --keep-alive: 1.8.0 takes the end of an aws-chunked body in chunks for the next request: 400.
        command = [str(SERVER), "--port", f"127.0.0.1:{self._port}", "--region", self.region, "--quiet"]
        command += ["--health", "/health", "--iam-dir", str(self._folder / "users"), "posix"]
        if not keeps_attributes(self._folder):
            command += ["--sidecar", str(self._folder / "facts")]
        command += [str(self._folder / "buckets")]
        # Nothing else of ours: VGW_... would be options of its.
        environment = {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"versitygw does not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill -9. What it has answered to stays; connections are refused until `start`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def fill(self, bucket: str, names: Iterable[str], prefix: str = "") -> None:
        """Put an object at each name below a prefix, as files beneath the server: thousands in a moment.

        They have no ETags.
        """
        for name in names:
            path = self._folder / "buckets" / bucket / f"{prefix}{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/health", timeout=1) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False


class GivenServer(Store):
    """One that somebody else runs.

    It is at S3_TEST_ENDPOINT, its keys are S3_TEST_ACCESS_KEY and S3_TEST_SECRET_KEY, its region is
    S3_TEST_REGION or us-east-1.
    """

    def __init__(self) -> None:
        keys = (os.environ[f"S3_TEST_{name}"] for name in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY"))
        super().__init__(*keys, os.environ.get("S3_TEST_REGION", "us-east-1"))

    def __enter__(self) -> "GivenServer":
        return self

    def __exit__(self, *exc_info) -> None:
        pass

    def kill(self) -> None:
        pytest.skip("S3_TEST_ENDPOINT is not ours to kill")

    start = kill


def can_find_server() -> bool:
    """Say whether there is a server to test with."""
    return "S3_TEST_ENDPOINT" in os.environ or SERVER.exists()


def find_server(folder: Path) -> S3Server | GivenServer:
    """Return the server to test with; skips the test where there is none, and fails it on CI."""
    if "S3_TEST_ENDPOINT" in os.environ:
        return GivenServer()
    if not can_find_server():
        reason = f"no S3 server at {SERVER}: `make s3-server` builds it, or says why not"
        # Green without these tests would be a lie.
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return S3Server(folder)


def free_port() -> int:
    """Return a port that nobody listens on.

    It is below those that the system gives to clients (32768 and up): one of those may become somebody else's
    while the server is dead, and a client that tries it again and again may connect to itself.
    """
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def keeps_attributes(folder: Path) -> bool:
    """Does the file system keep extended attributes, where the server puts ETags if it can?"""
    try:
        os.setxattr(folder, "user.spark_embed", b"")
    except (OSError, AttributeError):
        return False
    return True
