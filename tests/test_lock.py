"""One run at a time on an output folder: processes, kill -9, and what other machines leave behind."""

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

from spark_embed.errors import ResumeError, StorageError
from spark_embed.holder import SILENT_S, make_record
from spark_embed.lock import OutputLock, read_holder

ROOT = "/data/out"
WAIT_S = 20

# For each path that it reads: takes the lock and says how that went; lets go of it at the next line.
HOLDER = """
import logging, sys, time
from spark_embed.errors import ResumeError
from spark_embed.lock import OutputLock

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
        command = [sys.executable, "-c", HOLDER]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid

    def say(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        return self.process.stdout.readline().rstrip("\n")

    def take(self, path, moment: float = 0) -> str:
        self.say(f"{path} {moment}")
        return self.hear()

    def kill(self) -> None:
        """Kill -9, and leave it a zombie: its number is not given again meanwhile."""
        self.process.kill()
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


@pytest.fixture
def start_run():
    """Return a function that starts a process; all of them end with the test."""
    runs = []

    def start() -> Run:
        runs.append(Run())
        return runs[-1]

    yield start
    for run in runs:
        run.process.kill()
        run.process.communicate()


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "out" / "_spark_embed" / "lock.json")


@pytest.fixture
def log(caplog, monkeypatch):
    """What is logged, also where another test has started the program's own logging."""
    monkeypatch.setattr(logging.getLogger("spark_embed"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="spark_embed"):
        yield caplog


def take(path: str, **options) -> OutputLock:
    return OutputLock(path, ROOT, **options)


def content(path: str) -> dict:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_lock(path: str, **changes) -> dict:
    """Write the lock that this process would hold, but for some fields."""
    record = {**make_record("another").model_dump(), **changes}
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(record, file)
    return record


def wait_until(is_so, what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline, what


def heartbeats() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "output-lock"]


def test_a_lock_says_who_holds_it_and_is_gone_afterwards(path):
    assert read_holder(path) is None
    with take(path) as lock:
        lock.check()
        found = content(path)
        assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())
        holder = read_holder(path)
        assert holder.is_alive
        assert str(holder) == f"host {socket.gethostname()}, pid {os.getpid()}, since {found['since']}"
    assert read_holder(path) is None
    assert os.listdir(os.path.dirname(path)) == ["lock.json.guard"]
    with take(path) as lock:
        lock.check()


def test_an_error_lets_go_of_it_too(path):
    with pytest.raises(KeyError), take(path):
        raise KeyError
    assert not os.path.exists(path)


def test_a_second_run_is_refused_until_the_first_lets_go(path, start_run):
    first, second = start_run(), start_run()
    assert first.take(path) == "held"
    since = content(path)["since"]
    assert second.take(path) == (
        f"--output_dir {ROOT}: another run holds it: host {socket.gethostname()}, pid {first.pid}, "
        f"since {since}; wait for it or end it"
    )
    assert read_holder(path).is_alive
    first.say("let go")
    assert first.hear() == "let go"
    second.say("again")
    assert second.take(path) == "held"


def test_one_process_does_not_hold_it_twice(path):
    with take(path) as lock:
        with pytest.raises(ResumeError, match=f"pid {os.getpid()}, "), take(path):
            pass
        lock.check()
    assert not os.path.exists(path)


@pytest.mark.parametrize("is_reaped", [False, True])
def test_the_lock_of_a_killed_run_is_taken_over_at_once(path, start_run, log, is_reaped):
    dead = start_run()
    assert dead.take(path) == "held"
    dead.kill()
    if is_reaped:
        dead.process.wait()
    left = content(path)
    assert not read_holder(path).is_alive
    assert content(path) == left
    with take(path) as lock:
        lock.check()
        assert content(path)["pid"] == os.getpid()
    assert log.messages == [
        f"--output_dir {ROOT}: taken over from a run that ended without letting go of it: "
        f"host {socket.gethostname()}, pid {dead.pid}, since {left['since']}"
    ]


def test_a_number_that_another_process_was_given_again_holds_nothing(path, log):
    write_lock(path, pid_started="1")
    with take(path) as lock:
        lock.check()
    assert "taken over" in log.text


def test_a_run_that_is_stopped_for_long_still_holds_it_on_its_machine(path, start_run):
    run = start_run()
    assert run.take(path) == "held"
    psutil.Process(run.pid).suspend()
    write_lock(path, **{**content(path), "heartbeat": 0})
    with pytest.raises(ResumeError, match=f"pid {run.pid}"):
        take(path).__enter__()


# This host's name after a new boot, another container on this host, another system: judged by the heartbeat.
ELSEWHERE = [
    {"host": "node-7"},
    {"boot_id": "another"},
    {"boot_id": ""},
    {"pid_namespace": "pid:[1]"},
    {"pid_namespace": ""},
    {"host": "node-7", "boot_id": "", "pid_namespace": "", "pid_started": ""},
    {"pid_started": ""},
]


@pytest.mark.parametrize("place", ELSEWHERE, ids=lambda place: ",".join(place))
def test_a_holder_elsewhere_is_refused_while_its_heart_beats(path, place):
    record = write_lock(path, **place, heartbeat=time.time() - SILENT_S + 60)
    with pytest.raises(ResumeError) as refused, take(path):
        pass
    assert f"another run holds it: host {record['host']}, pid {os.getpid()}, since " in str(refused.value)
    assert ", last heard of 60 s ago; wait for it or end it" in str(refused.value)
    assert "counts as ended after 120 s of silence" in str(refused.value)
    assert content(path) == record
    assert sorted(os.listdir(os.path.dirname(path))) == ["lock.json", "lock.json.guard"]


@pytest.mark.parametrize("place", ELSEWHERE, ids=lambda place: ",".join(place))
def test_a_holder_elsewhere_that_fell_silent_is_taken_over(path, place, log):
    write_lock(path, **place, heartbeat=time.time() - SILENT_S - 5)
    assert not read_holder(path).is_alive
    with take(path) as lock:
        lock.check()
    assert "last heard of 125 s ago" in log.text


def test_where_processes_are_hidden_the_heartbeat_counts(path, monkeypatch):
    monkeypatch.setattr("spark_embed.holder._process_start", lambda pid: "")
    write_lock(path)
    with pytest.raises(ResumeError, match="last heard of 0 s ago"):
        take(path).__enter__()


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"token": ',
        "[]",
        "{}",
        "null",
        "\xff",
        {"pid": "1"},
        {"pid": True},
        {"pid": 0},
        {"pid": -1},
        {"pid": 1 << 31},
        {"heartbeat": float("nan")},
        {"heartbeat": 10**400},
        {"heartbeat": None},
        {"token": 1},
    ],
    ids=str,
)
def test_a_file_that_names_no_holder_is_left_as_it_is(path, text):
    write_lock(path, **(text if isinstance(text, dict) else {}))
    if isinstance(text, str):
        with open(path, "w", encoding="latin-1") as file:
            file.write(text)
    with open(path, "rb") as file:
        before = file.read()
    with pytest.raises(ResumeError) as refused, take(path):
        pass
    assert str(refused.value).startswith(f"{path}: does not say which run holds the folder")
    assert "delete it if no run is at work there" in str(refused.value)
    with open(path, "rb") as file:
        assert file.read() == before


def test_a_link_to_nothing_is_no_lock(path):
    write_lock(path)
    os.unlink(path)
    os.symlink("nowhere", path)
    with pytest.raises(ResumeError, match=r"lock\.json: does not say"):
        take(path).__enter__()


def test_what_a_later_version_adds_is_no_damage(path):
    write_lock(path, pid_started="1", colour="blue")
    with take(path) as lock:
        lock.check()


def test_a_folder_that_cannot_be_written_is_an_error_of_storage(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"lock\.json: cannot be written"):
        take(str(tmp_path / "file" / "lock.json")).__enter__()


def test_a_full_disk_is_an_error_of_storage_and_leaves_nothing(path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="o space left"):
        take(path).__enter__()
    assert os.listdir(os.path.dirname(path)) == ["lock.json.guard"]


def test_a_run_that_lost_its_lock_is_told_and_leaves_it_to_the_other(path):
    with take(path) as lock:
        other = write_lock(path, host="node-7", pid=4711)
        for _ in range(2):
            with pytest.raises(ResumeError) as lost:
                lock.check()
            assert f"--output_dir {ROOT}: another run has taken it over: host node-7, pid 4711" in str(
                lost.value
            )
            assert "this run changes nothing more" in str(lost.value)
    assert content(path) == other


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_run_whose_lock_is_gone_is_told_and_makes_no_new_one(path, tmp_path, what):
    with take(path) as lock:
        os.unlink(path)
        if what == "folder":
            shutil.rmtree(tmp_path / "out")
        for _ in range(2):
            with pytest.raises(ResumeError, match=r"lock\.json is gone, and another run may have begun"):
                lock.check()
    assert not os.path.exists(path)
    assert os.path.exists(tmp_path / "out") is (what == "file")


def test_what_was_lost_stays_lost(path):
    with take(path) as lock:
        ours = content(path)
        write_lock(path)
        with pytest.raises(ResumeError):
            lock.check()
        write_lock(path, **ours)
        with pytest.raises(ResumeError):
            lock.check()


def test_the_heartbeat_is_renewed_by_itself_and_by_a_check(path):
    with take(path, heartbeat_s=0.01):
        first = content(path)
        wait_until(lambda: content(path)["heartbeat"] > first["heartbeat"] + 0.05, "no heartbeat")
        assert {**content(path), "heartbeat": 0} == {**first, "heartbeat": 0}
    with take(path, heartbeat_s=3600) as lock:
        first = content(path)
        lock.check()
        assert content(path)["heartbeat"] > first["heartbeat"]


def test_the_heartbeat_stops_for_good_when_another_holds_the_lock(path):
    with take(path, heartbeat_s=0.01) as lock:
        other = write_lock(path)
        wait_until(lambda: not heartbeats(), "it goes on")
        with pytest.raises(ResumeError, match="has taken it over"):
            lock.check()
    assert content(path) == other


def test_the_heartbeat_outlives_a_failure_of_the_file_system(path, monkeypatch):
    failed = threading.Event()

    def flock(descriptor, operation):
        failed.set()
        raise OSError(errno.EIO, "Input/output error")

    with take(path, heartbeat_s=0.01) as lock:
        with monkeypatch.context() as broken:
            broken.setattr(fcntl, "flock", flock)
            assert failed.wait(WAIT_S)
            with pytest.raises(StorageError, match="Input/output error"):
                lock.check()
        first = content(path)
        wait_until(lambda: content(path)["heartbeat"] > first["heartbeat"], "no heartbeat")
        lock.check()


def test_letting_go_is_prompt_and_ends_the_thread(path):
    with take(path, heartbeat_s=3600):
        assert len(heartbeats()) == 1
        started = time.monotonic()
    assert time.monotonic() - started < 2
    assert heartbeats() == []


def test_an_interrupt_while_taking_leaves_no_lock(path, monkeypatch):
    lock = take(path)

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(lock._thread, "start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lock.__enter__()
    assert not os.path.exists(path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_flock_is_no_obstacle(path, monkeypatch, log, code):
    def flock(descriptor, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    _check_all_of_it(path)
    assert log.messages == []


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_hard_links_is_no_obstacle(path, monkeypatch, code):
    def link(source, target):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    _check_all_of_it(path)


def _check_all_of_it(path: str) -> None:
    with take(path) as lock:
        lock.check()
        with pytest.raises(ResumeError, match="another run holds it"):
            take(path).__enter__()
        lock.check()
    assert os.listdir(os.path.dirname(path)) == ["lock.json.guard"]


def test_of_many_that_want_it_at_once_one_gets_it(tmp_path, start_run):
    dead, runs = start_run(), [start_run() for _ in range(8)]
    assert dead.take(tmp_path / "dead.json") == "held"
    dead.kill()
    for run in runs:  # from now on all of them are ready
        assert run.take(tmp_path / f"{run.pid}.json") == "held"
        run.say("let go")
        assert run.hear() == "let go"
    for number in range(20):
        has_dead_lock = number % 2 == 1
        path = tmp_path / str(number) / "lock.json"
        path.parent.mkdir()
        if has_dead_lock:
            shutil.copy(tmp_path / "dead.json", path)
        moment = time.time() + 0.02
        for run in runs:
            run.say(f"{path} {moment}")
        answers = {run.pid: _hear_all(run) for run in runs}
        (winner,) = [pid for pid, lines in answers.items() if lines[-1] == "held"]
        for pid, lines in answers.items():
            if pid != winner:
                assert f"another run holds it: host {socket.gethostname()}, pid {winner}, " in lines[-1]
        assert sum("taken over" in line for lines in answers.values() for line in lines) == has_dead_lock
        for run in runs:
            run.say("let go")
        assert [run.hear() for run in runs if run.pid == winner] == ["let go"]


def _hear_all(run: Run) -> list[str]:
    """Return the lines up to the one that says how taking the lock went."""
    lines = [run.hear()]
    while "taken over" in lines[-1]:
        lines.append(run.hear())
    return lines
