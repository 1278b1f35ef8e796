"""Kill -9 of the driver, of workers, of executors: the run goes on, nothing is missing or there twice."""

import os
import random
import signal
import sys

import psutil
import pytest

from support.checkout import REPOSITORY
from support.commands import BIN
from support.crashes import Folder, Run

# Places to die at: when a marker is written but has not its name yet, and when one of two data sets is new.
IN_A_MARKER = "spark_embed.storage.local sync markers/ 2"
# A driver whose application is killed, as by `yarn application -kill` or on the master's page: Spark stops
# the context from inside. Here once there is a file.
KILLED_DRIVER = """
import os, sys, threading, time
from spark_embed.cli.main import main

def stop():
    while not os.path.exists(os.environ["CRASH_LOG"] + "/kill"):
        time.sleep(0.05)
    from pyspark import SparkContext
    SparkContext._active_spark_context._jsc.stop()

threading.Thread(target=stop, daemon=True).start()
sys.exit(main())
"""
IN_PUBLISH = "spark_embed.output.publish.publish _move_files errors.parquet 1"
N_KILLS = 20
AT_RANDOM = ["start", "found", "parity", "images 60", "images 180", "images 360", "publish"]


@pytest.fixture
def out(tmp_path) -> Folder:
    return Folder(tmp_path / "out")


def await_moment(run: Run, out: Folder, moment: str) -> None:
    """Wait until a run is there, or has ended."""
    word, _, number = moment.partition(" ")
    is_there = {
        "start": lambda: True,
        "found": lambda: "found" in run.said,
        "parity": lambda: "parity" in run.said,
        "images": lambda: len(run.images()) >= int(number),
        "publish": (out.state / "publish").exists,
    }[word]
    run.await_(lambda: run.has_ended or is_there(), moment)


@pytest.mark.crash
@pytest.mark.timeout(1800)
def test_after_kills_at_any_moment_nothing_is_missing_or_there_twice_or_done_again(
    start, tmp_path, uninterrupted
):
    """One kill is also in make test: test_two_runs.py."""
    chance = random.Random(N_KILLS)
    moments = [IN_PUBLISH, *(chance.choice(AT_RANDOM) for _ in range(N_KILLS - 2)), IN_A_MARKER]
    runs, outs, n_strays = [], [Folder(tmp_path / "out-0")], 0
    while True:
        out, complete = outs[-1], outs[-1].complete()
        hold = moments[-1] if moments and moments[-1] not in AT_RANDOM else None
        # Files of 4 kB: every few waves are published while the others go on.
        run = start(out.root, "--output_file_bytes", 4000, hold=hold, row_s=0.01)
        runs.append((run, complete))
        if hold:
            run.await_hold()
        elif moments:
            await_moment(run, out, moments[-1])
            run.wait_at_most(chance.uniform(0, 1))
        if run.has_ended or not moments:
            assert run.wait() == 0, run.said
            out.assert_same(uninterrupted)
            out.assert_tidy()
            if not moments:
                break
            outs.append(Folder(tmp_path / f"out-{len(outs)}"))
            continue
        run.kill()
        moments.pop()
        n_strays += out.plant_strays()  # at once, as the JVM that is still dying might
    assert n_strays
    for run, complete in runs:
        run.await_silence()
        images = run.images()
        assert len(set(images)) == len(images)
        assert not complete & set(images)


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing_and_a_jvm_that_is_is_told_in_one_line(
    start, go_on_here, out, uninterrupted
):
    run = start(out.root, row_s=0.02)
    for n_images in (50, 150):
        run.await_(lambda n_images=n_images: len(run.images()) >= n_images, f"{n_images} images")
        os.kill(run.workers()[0], signal.SIGKILL)
    run.await_(lambda: len(run.images()) >= 300, "300 images")
    before = run.said
    assert "Python worker exited unexpectedly (crashed)" in before  # it was at work
    (jvm,) = (one for one in run.processes() if one.name() == "java")
    jvm.kill()
    assert run.wait() == 9, run.said
    assert "Spark's JVM has ended" in run.last_line
    assert "it goes on" in run.last_line
    assert "Traceback" not in run.said.removeprefix(before)
    go_on_here(out)
    out.assert_same(uninterrupted)
    out.assert_tidy()


@pytest.mark.crash
def test_an_application_that_is_killed_is_told_in_one_line_and_the_same_command_goes_on(
    start, go_on_here, out, uninterrupted
):
    run = start(out.root, program=(sys.executable, "-c", KILLED_DRIVER), row_s=0.02)
    run.await_(lambda: len(run.images()) >= 150, "150 images")
    (run.log / "kill").touch()
    assert run.wait(20) == 9, run.said
    assert "Spark's application has ended in the middle of the run" in run.last_line
    assert "it goes on" in run.last_line
    run.await_silence()
    go_on_here(out)
    out.assert_same(uninterrupted)
    out.assert_tidy()


@pytest.mark.crash
def test_an_executor_that_is_killed_costs_nothing(start, out, uninterrupted):
    submit = (BIN / "spark-submit", "--master", "local-cluster[2,1,1024]", REPOSITORY / "jobs/embed.py")
    run = start(out.root, program=submit, row_s=0.02)
    run.await_(lambda: len(run.images()) >= 50, "50 images")
    worker = psutil.Process(run.workers()[0])
    executor = next(
        one for one in worker.parents() if "CoarseGrainedExecutorBackend" in " ".join(one.cmdline())
    )
    executor.kill()
    assert run.wait() == 0, run.said
    out.assert_same(uninterrupted)
    out.assert_tidy()
    run.await_silence()
