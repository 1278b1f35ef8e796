"""Groups of Spark jobs: counted together, cancelled together, and nobody else's."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from spark_embed.spark.jobs import JobGroups

from support.waiting import PATIENCE_S, wait_until


def run_tasks(spark, n_tasks=4):
    spark.sparkContext.parallelize(range(n_tasks), n_tasks).map(lambda x: x).count()


@pytest.fixture
def gate(tmp_path) -> Iterator[Path]:
    """What tasks wait at until it is opened."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)  # so that the tasks' own opening does not wait
    yield path
    os.close(descriptor)


def open_gate(gate):
    with gate.open("r+b", buffering=0) as file:
        file.write(b"x" * 100)


@contextmanager
def threads(gate) -> Iterator[ThreadPoolExecutor]:
    """Threads to start jobs on; none of them waits for the gate in the end."""
    with ThreadPoolExecutor() as pool:
        try:
            yield pool
        finally:
            open_gate(gate)


def run_and_wait(spark, gate, n_tasks, n_waiting):
    """Run some tasks, of which the last ones wait at the gate."""
    name = str(gate)

    def run(index, rows):
        if index >= n_tasks - n_waiting:
            with open(name, "rb", buffering=0) as file:
                file.read(1)
        return rows

    spark.sparkContext.parallelize(range(n_tasks), n_tasks).mapPartitionsWithIndex(run).count()


def n_running(spark) -> int:
    return len(spark.sparkContext.statusTracker().getActiveJobsIds())


def test_the_users_own_job_group_is_put_back(spark):
    context = spark.sparkContext
    context.setJobGroup("theirs", "their work")
    try:
        with JobGroups(spark).group("a wave", 1):
            assert context.getLocalProperty("spark.jobGroup.id") != "theirs"
            assert context.getLocalProperty("spark.job.description") == "spark_embed: a wave"
        assert context.getLocalProperty("spark.jobGroup.id") == "theirs"
        assert context.getLocalProperty("spark.job.description") == "their work"
    finally:
        context.setLocalProperty("spark.jobGroup.id", None)


def test_groups_that_are_under_way_count_by_their_tasks_and_ended_ones_whole(spark, gate):
    jobs = JobGroups(spark)
    with jobs.group("one", 10):
        assert jobs.n_done() == 0
        run_tasks(spark)
    assert jobs.n_done() == 10

    def run():
        with jobs.group("two", 400):
            run_and_wait(spark, gate, n_tasks=4, n_waiting=1)

    with threads(gate) as pool:
        two = pool.submit(run)
        wait_until(lambda: jobs.n_done() == 310, "three of four tasks end")
        assert not two.done()
        open_gate(gate)
        two.result(PATIENCE_S)
    assert jobs.n_done() == 410


def test_a_group_that_failed_does_not_count(spark):
    jobs = JobGroups(spark)

    def fail():
        with jobs.group("a wave", 100):
            run_tasks(spark)
            assert jobs.n_done() == 100
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert jobs.n_done() == 0


@pytest.mark.matrix
def test_all_groups_are_cancelled_and_nobody_elses_job(spark, gate):
    """A group that has ended is nobody's any more."""
    jobs = JobGroups(spark)
    with jobs.group("ended", 1):
        run_tasks(spark)

    def run():
        with jobs.group("a wave", 100):
            run_and_wait(spark, gate, n_tasks=1, n_waiting=1)

    with threads(gate) as pool:
        theirs = pool.submit(run_and_wait, spark, gate, 2, 1)
        ours = [pool.submit(run) for _ in range(2)]
        wait_until(lambda: n_running(spark) == 3, "three jobs run")
        jobs.cancel()
        for future in ours:
            with pytest.raises((PySparkException, Py4JError), match="cancelled"):
                future.result(PATIENCE_S)
        assert not theirs.done()
        open_gate(gate)
        theirs.result(PATIENCE_S)
    assert jobs.n_done() == 1
