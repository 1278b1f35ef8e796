"""Locks, files of locks, and a process that takes them."""

import json
import os
import subprocess
import sys

from spark_embed.output.lock.lock import OutputLock
from spark_embed.output.lock.owner import make_record

ROOT = "/data/out"

# For each path that it reads: takes the lock and says how that went; lets go of it at the next line.
OWNER = """
import logging, sys, time
from spark_embed.errors import ResumeError
from spark_embed.output.lock.lock import OutputLock

logging.basicConfig(stream=sys.stdout, format="%(message)s")
while line := sys.stdin.readline():
    path, moment = line.split()
    while time.time() < float(moment):
        pass
    try:
        with OutputLock(path, "/data/out"):
            print("held", flush=True)
            sys.stdin.readline()
        print("let go", flush=True)
    except ResumeError as exc:
        print(exc, flush=True)
        sys.stdin.readline()
"""


class Run:
    """A process that takes locks."""

    def __init__(self):
        command = [sys.executable, "-c", OWNER]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid

    def say(self, line: str) -> None:
        """Give it a line."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """Return its next line."""
        return self.process.stdout.readline().rstrip("\n")

    def take(self, path, moment: float = 0) -> str:
        """Let it take a lock; return how that went."""
        self.say(f"{path} {moment}")
        return self.hear()

    def kill(self) -> None:
        """Kill -9, and leave it a zombie: its number is not given again meanwhile."""
        self.process.kill()
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


def take(path: str, **options) -> OutputLock:
    """Return a lock that is not taken yet."""
    return OutputLock(path, ROOT, **options)


def content(path: str) -> dict:
    """Return what the lock's file says."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_lock(path: str, **changes) -> dict:
    """Write the lock that this process would hold, but for some fields."""
    record = {**make_record("another").model_dump(), **changes}
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(record, file)
    return record
