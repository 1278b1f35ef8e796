"""What a run says while it goes: lines in a log, a bar on a terminal, a number to whoever asks."""

import io
import logging
import threading

from spark_embed.errors import StorageError
from spark_embed.run import progress
from spark_embed.run.progress import Progress
from spark_embed.spark.jobs import JobGroups

from support.waiting import PATIENCE_S


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_tasks(spark, n_tasks=4):
    spark.sparkContext.parallelize(range(n_tasks), n_tasks).map(lambda x: x).count()


def run_waves(spark, jobs, *n_rows):
    """Run one job after the other, each of so many images."""
    for number in n_rows:
        with jobs.group("a wave", number):
            run_tasks(spark)


def test_a_log_gets_a_line_per_interval(spark, monkeypatch):
    lines, seen = [], threading.Event()

    def note(text, *arguments):
        lines.append(text % arguments)
        seen.set()

    monkeypatch.setattr(progress, "_LOG_INTERVAL_S", 0.01)
    monkeypatch.setattr(logging.getLogger("spark_embed.run.progress"), "info", note)
    jobs = JobGroups(spark)
    with Progress(jobs, n_images=100):
        run_waves(spark, jobs, 30, 20)
        seen.clear()
        assert seen.wait(10)
        seen.clear()
        assert seen.wait(10)
        assert lines[-1].startswith("50 of 100 images (")
        assert "left" in lines[-1]
        run_waves(spark, jobs, 50)
        seen.clear()
        assert seen.wait(10)
        seen.clear()
        assert seen.wait(10)
    assert lines[-1].startswith("100 of 100 images (")
    assert "about 0 s left" in lines[-1]


def test_a_terminal_gets_a_bar_that_ends_full(spark, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    jobs = JobGroups(spark)
    with Progress(jobs, n_images=1234):
        run_waves(spark, jobs, 1000, 234)
    assert "1234/1234" in terminal.getvalue()


def test_who_wants_to_know_is_told_at_once_and_at_the_end(spark):
    told, jobs = [], JobGroups(spark)
    first = threading.Event()

    def tell(n_done):
        told.append(n_done)
        first.set()

    with Progress(jobs, 300, tell):
        assert first.wait(PATIENCE_S)
        assert told == [0]
        run_waves(spark, jobs, 100, 200)
    assert told[-1] == 300


def test_what_cannot_be_told_now_is_told_later(spark, monkeypatch):
    """The run does not depend on it."""
    monkeypatch.setattr(progress, "_TELL_INTERVAL_S", 0.01)
    told, again = [], threading.Event()

    def tell(n_done):
        told.append(n_done)
        if len(told) == 1:
            raise StorageError("no space left")
        again.set()

    jobs = JobGroups(spark)
    with Progress(jobs, 5, tell):
        assert again.wait(PATIENCE_S)
        run_waves(spark, jobs, 5)
    assert told[-1] == 5
