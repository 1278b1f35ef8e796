"""--model_directory as a hub id: a machine's workers fetch it once, and not at all where they may not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.hub import WEIGHTS, Hub

N_WORKERS = 10
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


@pytest.fixture
def hub():
    with Hub(FILES) as hub:
        hub.start()
        yield hub


@pytest.fixture
def find(hub, tmp_path):
    """What workers that start at once on one machine say of the model: its folder, or what is wrong."""

    def find(n_workers: int, **environment: str) -> list[str]:
        hub.n_workers = n_workers
        fields = {
            "HF_HOME": str(tmp_path / "hub"),
            "HF_ENDPOINT": hub.address,
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
