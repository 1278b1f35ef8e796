"""One run at a time on an output folder in S3: by conditional writes."""

import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from spark_embed.errors import ResumeError, StorageError
from spark_embed.output.lock.lock import OutputLock, read_owner
from spark_embed.output.lock.owner import SILENT_S, make_record
from spark_embed.storage import delete, exists, read_json, write_json, write_text

from support.locks import ROOT, Run, take
from support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.usefixtures("short_s3_pauses", "no_heart_beats_on")

ELSEWHERE = {"host": "node-7", "pid": 4711}


@pytest.fixture
def no_heart_beats_on():
    """A thread that did would ask the store of the tests after this one."""
    yield
    for thread in threading.enumerate():
        if thread.name == "output-lock":
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture
def path(bucket) -> str:
    return f"s3a://{bucket}/out/_spark_embed/lock.json"


def write_lock(path: str, silent_s: float = 0, **changes) -> dict:
    """Write the lock that this process would hold, but for some fields."""
    record = make_record("another").model_dump()
    write_json(path, record | {"heartbeat": time.time() - silent_s} | changes)
    return read_json(path)


def try_at_once(path: str, n_runs: int) -> tuple[list[OutputLock], list[str]]:
    """Take a lock in many threads; returns the locks that were taken, and what the others were told."""
    ready = threading.Barrier(n_runs)

    def try_one(_) -> OutputLock | str:
        lock = take(path)
        ready.wait()
        try:
            return lock.__enter__()
        except ResumeError as exc:
            return str(exc)

    with ThreadPoolExecutor(n_runs) as pool:
        outcomes = list(pool.map(try_one, range(n_runs)))
    held = [outcome for outcome in outcomes if isinstance(outcome, OutputLock)]
    return held, [outcome for outcome in outcomes if isinstance(outcome, str)]


def let_go(lock: OutputLock) -> None:
    lock.__exit__(None, None, None)


def test_a_lock_says_who_holds_it_and_is_gone_afterwards(path, bad_s3):
    assert read_owner(path) is None
    bad_s3.asked.clear()
    with take(path):
        pass
    # The second PutObject is to see whether the store honours conditions.
    assert bad_s3.requests == {"GetObject": 2, "PutObject": 2, "DeleteObject": 1}
    assert not exists(path)
    with take(path) as lock:
        lock.check()
        lock.watch()
        found = read_json(path)
        assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())
        assert read_owner(path).is_alive
        with pytest.raises(ResumeError, match=f"another run holds it: host .*pid {os.getpid()}, "):
            take(path).__enter__()
        lock.check()
    with pytest.raises(KeyError), take(path):
        raise KeyError
    assert not exists(path)


class TestOfManyThatWantItAtOnce:
    @pytest.mark.parametrize("is_left", [False, True], ids=["free", "of a dead run"])
    def test_one_thread_gets_it(self, path, log, is_left):
        for _ in range(4):
            if is_left:
                write_lock(path, silent_s=SILENT_S + 5, **ELSEWHERE)
            log.clear()
            held, told = try_at_once(path, 8)
            assert len(held) == 1
            assert all("another run holds it: host" in text for text in told), told
            assert log.text.count("taken over") == is_left
            held[0].check()
            let_go(held[0])
            assert not exists(path)

    def test_one_process_gets_it(self, bucket):
        runs = [Run() for _ in range(2)]
        try:
            for number in range(5):
                path = f"s3a://{bucket}/{number}/lock.json"
                moment = time.time() + (2 if number == 0 else 0.1)  # until they have started
                for run in runs:
                    run.say(f"{path} {moment}")
                answers = [run.hear() for run in runs]
                assert answers.count("held") == 1, answers
                (refused,) = [answer for answer in answers if answer != "held"]
                assert "another run holds it" in refused
                for run in runs:
                    run.say("let go")
                assert runs[answers.index("held")].hear() == "let go"
        finally:
            for run in runs:
                run.process.kill()
                run.process.communicate()


class TestOwnerElsewhere:
    def test_is_refused_while_its_heart_beats(self, path):
        record = write_lock(path, silent_s=20, **ELSEWHERE)
        with pytest.raises(
            ResumeError, match=r"host node-7, pid 4711, .*last heard of 20 s ago; wait for it"
        ):
            take(path).__enter__()
        assert read_json(path) == record

    def test_that_fell_silent_is_taken_over_and_notices(self, path, log, monkeypatch):
        with take(path, heartbeat_s=3600) as slept:
            monkeypatch.setattr(
                "spark_embed.output.lock.owner._machine", lambda: ("node-8", "another", "another")
            )
            monkeypatch.setattr("spark_embed.output.lock.owner.SILENT_S", -1.0)
            with take(path) as lock:
                assert "taken over from a run that ended without letting go of it" in log.text
                lock.check()
                for _ in range(2):
                    with pytest.raises(
                        ResumeError, match=f"--output_dir {ROOT}: another run has taken it over"
                    ):
                        slept.check()
                lock.check()
            let_go(slept)


class TestLost:
    def test_to_another_run_is_told_and_left_to_it(self, path):
        with take(path, heartbeat_s=0.01) as lock:
            other = write_lock(path, **ELSEWHERE)
            wait_until(lambda: not lock._thread.is_alive(), "the heartbeat goes on")
            for ask in (lock.check, lock.watch):
                with pytest.raises(ResumeError, match="another run has taken it over: host node-7, pid 4711"):
                    ask()
        assert read_json(path) == other

    def test_to_nobody_is_told_and_not_made_anew(self, path):
        with take(path) as lock:
            delete(path)
            with pytest.raises(ResumeError, match=r"lock\.json is gone, and another run may have begun"):
                lock.check()
        assert not exists(path)


def test_threads_of_a_run_that_renew_it_at_one_moment_do_not_lose_it(path):
    """The heartbeat and `check`: each writes only over what it saw."""
    with take(path, heartbeat_s=0.0) as lock, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: lock.check(), range(60)))
        assert lock._thread.is_alive()


def test_who_looks_while_it_is_renewed_sees_it(path):
    with take(path, heartbeat_s=0.0):
        for _ in range(100):
            assert read_owner(path).is_alive


class TestBadStore:
    def test_whose_answers_are_lost_does_not_lose_it(self, path, bad_s3):
        bad_s3.fail_next("PutObject", "cut")
        with take(path, heartbeat_s=3600) as lock:
            assert bad_s3.met == {("cut", "PutObject"): 1}
            for _ in range(3):
                bad_s3.fail_next("PutObject", "cut", "cut")
                lock.check()
        assert not exists(path)

    def test_whose_answer_to_a_taking_over_is_lost_does_not_lose_it(self, path, bad_s3):
        write_lock(path, silent_s=SILENT_S + 5, **ELSEWHERE)
        bad_s3.fail_next("PutObject", "slow_down", "cut")  # the first is a try to make it
        bad_s3.fail_next("GetObject", "cut")
        with take(path) as lock:
            lock.check()
        assert not exists(path)

    @pytest.mark.parametrize("conditional", ["kept", "refused", "ignored"])
    def test_that_fails_every_third_time_does_not_lose_it(self, path, bad_s3, conditional):
        bad_s3.rate, bad_s3.delay_s, bad_s3.conditional = 0.3, 0.01, conditional
        with take(path, heartbeat_s=0.01) as lock:
            for _ in range(15):
                lock.check()
            assert bad_s3.met.total() > 2
            bad_s3.rate = 0.0
        assert not exists(path)

    def test_that_is_away_for_a_moment_is_outlived(self, path, bad_s3, monkeypatch):
        with take(path, heartbeat_s=0.05) as lock:
            first = read_json(path)
            bad_s3.down()
            monkeypatch.setattr("spark_embed.storage.s3.patience.PATIENT_ATTEMPTS", 2)
            with pytest.raises(
                StorageError, match=r"lock\.json: cannot be read: the store cannot be reached"
            ):
                lock.check()
            lock.watch()
            time.sleep(0.5)
            bad_s3.up()
            wait_until(lambda: read_json(path)["heartbeat"] > first["heartbeat"] + 0.5, "no heartbeat")
            lock.check()

    def test_that_stays_away_for_too_long_is_told(self, path, bad_s3, monkeypatch):
        with take(path, heartbeat_s=0.01) as lock:
            bad_s3.down()
            wait_until(lambda: "the store cannot be reached" in lock._failure, "it is reached")
            lock.watch()
            monkeypatch.setattr("spark_embed.output.lock.lock.SILENT_S", 0.0)
            with pytest.raises(StorageError, match=r"could not be renewed for .*the store cannot be reached"):
                lock.watch()
            began = time.monotonic()
        assert time.monotonic() - began < 6
        bad_s3.up()

    def test_that_takes_a_heartbeat_late_is_given_another(self, path, bad_s3, monkeypatch):
        """What is made final after a check is this run's alone for as long as others wait for it."""
        monkeypatch.setattr("spark_embed.output.lock.lock.SILENT_S", 1.0)
        with take(path, heartbeat_s=3600) as lock:
            bad_s3.delay_s = 0.8
            bad_s3.fail_next("PutObject", "delay")
            lock.check()
            assert time.time() - read_json(path)["heartbeat"] < 0.8


@pytest.mark.parametrize("conditional", ["refused", "ignored"])
def test_a_store_without_conditions_is_warned_of_once_and_runs_one_after_the_other_see_each_other(
    path, bad_s3, log, conditional
):
    bad_s3.conditional = conditional
    with take(path) as lock:
        before = read_json(path)
        with pytest.raises(ResumeError, match="another run holds it"):
            take(path).__enter__()
        assert read_json(path) == before
        for _ in range(3):
            lock.check()
        write_lock(path, **ELSEWHERE)
        with pytest.raises(ResumeError, match="another run has taken it over"):
            lock.check()
    delete(path)
    with take(path) as lock:
        lock.check()
    assert not exists(path)
    assert log.text.count("this store has no conditional writes") == 1
    assert "see to it that only one run works on --output_dir" in log.text


@pytest.mark.parametrize("text", ["", "{}", '{"token": ', "\xff"])
def test_what_is_no_lock_is_left_as_it_is(path, text):
    write_text(path, text)
    with pytest.raises(ResumeError, match=r"lock\.json: does not say which run holds the folder"):
        take(path).__enter__()
    assert exists(path)


def test_who_may_not_write_is_told(s3_server, bucket, path, monkeypatch):
    user = s3_server.make_user("MARKEDREADER", "MARKED-SECRET-OF-A-READER")
    for action in ("s3:GetObject", "s3:ListBucket"):
        s3_server.allow(bucket, user.access_key, action=action)
    user.set_environment(monkeypatch)
    with pytest.raises(StorageError, match=r"lock\.json: cannot be written: access denied; .*s3:PutObject"):
        take(path).__enter__()
    with pytest.raises(StorageError, match=r"no-such-b/lock\.json: .*there is no bucket no-such-b"):
        take("s3a://no-such-b/lock.json").__enter__()


def test_a_run_in_a_folder_with_odd_names_is_locked_too(bucket):
    path = f"s3a://{bucket}/a b+%20ü/_spark_embed/lock.json"
    with take(path) as lock:
        lock.check()
        assert json.dumps(read_json(path))
    assert not exists(path)
