"""What a run says while it goes: one line per interval in a log, a bar on a terminal."""

import io
import logging
import threading

from spark_embed import progress
from spark_embed.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_tasks(spark, n_tasks=4):
    spark.sparkContext.parallelize(range(n_tasks), n_tasks).map(lambda x: x).count()


def test_a_log_gets_a_line_per_interval(spark, monkeypatch):
    lines, seen = [], threading.Event()

    def note(text, *arguments):
        lines.append(text % arguments)
        seen.set()

    monkeypatch.setattr(progress, "_LOG_INTERVAL_S", 0.01)
    monkeypatch.setattr(logging.getLogger("spark_embed.progress"), "info", note)
    with Progress(spark, n_images=100):
        run_tasks(spark)
        seen.clear()
        assert seen.wait(10)
    assert lines[-1].startswith("100 of 100 images (")
    assert "left" in lines[-1]


def test_a_terminal_gets_a_bar_that_ends_full(spark, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress(spark, n_images=1234):
        run_tasks(spark)
    assert "1234/1234" in terminal.getvalue()


def test_the_users_own_job_group_is_put_back(spark):
    context = spark.sparkContext
    context.setJobGroup("theirs", "their work")
    try:
        with Progress(spark, n_images=1):
            assert context.getLocalProperty("spark.jobGroup.id") != "theirs"
        assert context.getLocalProperty("spark.jobGroup.id") == "theirs"
        assert context.getLocalProperty("spark.job.description") == "their work"
    finally:
        context.setLocalProperty("spark.jobGroup.id", None)
