"""--model_directory as a hub id: a machine's workers fetch it once, and not at all where they may not."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from support.waiting import PATIENCE_S

N_WORKERS = 10
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = "model.safetensors"
FILES = {"config.json": b"{}", "preprocessor_config.json": b"[]", WEIGHTS: os.urandom(100_000)}
FILES |= {"merges.txt": b"#version: 0.2", "spiece.model": b"a tokenizer"}

# Forked from one process, as Spark's daemon does it.
PROGRAM = """
import os, sys
from spark_embed.errors import ModelError
from spark_embed.models import Recipe
from spark_embed.models.folder import find_folder

def find():
    try:
        return find_folder(Recipe("org/clip"))[0]
    except ModelError as exc:
        return f"ModelError {exc}"

for _ in range(int(sys.argv[1])):
    if not os.fork():
        os.write(1, f"{find()}\\n".encode())
        os._exit(0)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""


class Hub(ThreadingHTTPServer):
    """The hub with one model. It gives the weights when `n_workers` have asked what they are."""

    daemon_threads = True
    n_workers = 1

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked = Counter[tuple[str, str]]()
        self.are_all_here = threading.Event()

    def note(self, method: str, name: str) -> None:
        self.asked[method, name] += 1
        if self.asked["HEAD", WEIGHTS] >= self.n_workers:
            self.are_all_here.set()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        self.server.note(self.command, name)
        if path.startswith("/api/models/org/clip/tree/"):
            return self.give(
                json.dumps(
                    [{"type": "file", "path": n, "oid": "0" * 40, "size": len(d)} for n, d in FILES.items()]
                ).encode()
            )
        if path.startswith("/api/models/org/clip"):
            about = {"id": "org/clip", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            return self.give(json.dumps(about).encode())
        if self.command == "GET" and name == WEIGHTS:
            self.server.are_all_here.wait(PATIENCE_S)
        return self.give(FILES.get(name, b""), 200 if name in FILES else 404)

    def give(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        fields = {
            "Content-Length": len(body),
            "ETag": f'"{hashlib.sha1(body).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
        }
        for name, value in fields.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub():
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


@pytest.fixture
def find(hub, tmp_path):
    """What workers that start at once on one machine say of the model: its folder, or what is wrong."""

    def find(n_workers: int, **environment: str) -> list[str]:
        hub.n_workers = n_workers
        endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
        fields = {
            "HF_HOME": str(tmp_path / "hub"),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_OFFLINE": "0",
            **environment,
        }
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("HF_")
        } | fields
        command = [sys.executable, "-c", PROGRAM, str(n_workers)]
        return subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.splitlines()

    return find


def test_of_many_workers_that_start_at_once_one_fetches_it(find, hub):
    (folder,) = set(found := find(N_WORKERS))
    assert len(found) == N_WORKERS
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == FILES
    assert hub.asked["HEAD", WEIGHTS] == N_WORKERS  # they were there at once
    assert {name: hub.asked["GET", name] for name in FILES} == dict.fromkeys(FILES, 1)


def test_workers_that_are_offline_take_what_is_there_and_ask_for_nothing(find, hub):
    (said,) = find(1, HF_HUB_OFFLINE="1")
    assert said.startswith("ModelError --model_directory org/clip: neither a folder here nor a hub id")
    assert not hub.asked
    found = find(1)
    hub.asked.clear()
    assert find(1, HF_HUB_OFFLINE="1") == found
    assert not hub.asked
