"""A lock that is held: its heartbeat, a run that has lost it, and letting go."""

import errno
import fcntl
import os
import shutil
import threading
import time

import pytest

from spark_embed.errors import ResumeError, StorageError

from support.locks import ROOT, content, take, write_lock
from support.waiting import PATIENCE_S, wait_until


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "out" / "_spark_embed" / "lock.json")


def heartbeats() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "output-lock"]


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
            assert failed.wait(PATIENCE_S)
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


def test_what_a_killed_run_was_writing_is_deleted_by_the_next(path):
    os.makedirs(os.path.dirname(path))
    for name in ("lock.json.0123abc.77.tmp", "lock.json.guard", "other.json.tmp"):
        open(os.path.join(os.path.dirname(path), name), "w").close()
    with take(path):
        assert sorted(os.listdir(os.path.dirname(path))) == ["lock.json", "lock.json.guard", "other.json.tmp"]
