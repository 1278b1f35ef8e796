"""One run at a time on an output folder: processes, kill -9, and what other machines leave behind."""

import os
import shutil
import socket
import time

import psutil
import pytest

from spark_embed.errors import ResumeError
from spark_embed.output.lock.lock import read_owner
from spark_embed.output.lock.owner import SILENT_S

from support.locks import ROOT, Run, content, take, write_lock


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


def test_a_lock_says_who_holds_it_and_is_gone_afterwards(path):
    assert read_owner(path) is None
    with take(path) as lock:
        lock.check()
        found = content(path)
        assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())
        owner = read_owner(path)
        assert owner.is_alive
        assert str(owner) == f"host {socket.gethostname()}, pid {os.getpid()}, since {found['since']}"
    assert read_owner(path) is None
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
    assert read_owner(path).is_alive
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
    assert not read_owner(path).is_alive
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
def test_an_owner_elsewhere_is_refused_while_its_heart_beats(path, place):
    record = write_lock(path, **place, heartbeat=time.time() - 20)
    with pytest.raises(ResumeError) as refused, take(path):
        pass
    assert f"another run holds it: host {record['host']}, pid {os.getpid()}, since " in str(refused.value)
    assert ", last heard of 20 s ago; wait for it or end it" in str(refused.value)
    assert "counts as ended after 120 s of silence" in str(refused.value)
    assert content(path) == record
    assert sorted(os.listdir(os.path.dirname(path))) == ["lock.json", "lock.json.guard"]


@pytest.mark.parametrize("place", ELSEWHERE, ids=lambda place: ",".join(place))
def test_an_owner_elsewhere_that_fell_silent_is_taken_over(path, place, log):
    write_lock(path, **place, heartbeat=time.time() - SILENT_S - 5)
    assert not read_owner(path).is_alive
    with take(path) as lock:
        lock.check()
    assert "last heard of 125 s ago" in log.text


@pytest.mark.parametrize("revives", [False, True])
def test_an_owner_elsewhere_that_missed_its_beats_is_waited_for(path, log, monkeypatch, revives):
    monkeypatch.setattr("spark_embed.output.lock.lock._LOOK_EVERY_S", 0.05)
    monkeypatch.setattr("spark_embed.output.lock.owner.SILENT_S", 40.3 if not revives else SILENT_S)
    record = write_lock(path, host="node-7", heartbeat=time.time() - 40)
    if not revives:
        with take(path) as lock:
            lock.check()
        assert log.text.count("waiting whether the run that holds --output_dir is alive: host node-7") == 1
        assert "taken over from a run that ended" in log.text
        return
    looks = []

    def look(seconds):
        looks.append(seconds)
        write_lock(path, **{**record, "heartbeat": time.time()})

    monkeypatch.setattr("time.sleep", look)
    with pytest.raises(ResumeError, match="another run holds it: host node-7"):
        take(path).__enter__()
    assert looks == [0.05]


def test_where_processes_are_hidden_the_heartbeat_counts(path, monkeypatch):
    monkeypatch.setattr("spark_embed.output.lock.owner._process_start", lambda pid: "")
    write_lock(path)
    with pytest.raises(ResumeError, match="last heard of 0 s ago"):
        take(path).__enter__()


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
