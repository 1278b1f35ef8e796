"""Ctrl-C and SIGTERM at any moment: a quick end, a last line that says how to go on, nothing left running."""

import os
import re
import signal
import sys

import psutil
import pytest

from support.checkout import REPOSITORY
from support.commands import BIN
from support.crashes import WAVE_ROWS, Folder

IN_PUBLISH = "spark_embed.output.publish.merge merge_files Merge 1"

MOMENTS = {
    "the JVM starts": lambda run: run.await_(
        lambda: any("java" in one.name() for one in run.processes()), "java"
    ),
    "preflight": lambda run: run.await_(
        lambda: "found 12 parquet shards" in run.said + run.printed, "preflight"
    ),
    "waves": lambda run: run.await_(lambda: len(run.images()) > 100, "100 images"),
    "publish": lambda run: run.await_hold(),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("number", "moments"),
    [
        (signal.SIGTERM, ["waves"]),
        pytest.param(signal.SIGTERM, list(MOMENTS), marks=pytest.mark.crash),
        pytest.param(signal.SIGINT, list(MOMENTS), marks=pytest.mark.crash),
    ],
)
def test_a_signal_ends_the_run_at_once_and_the_same_command_goes_on(
    start, go_on_here, tmp_path, uninterrupted, number, moments
):
    out = Folder(tmp_path / "out")
    for moment in moments:
        complete = out.complete()
        run = start(out.root, hold=IN_PUBLISH if moment == "publish" else None, row_s=0.01)
        MOMENTS[moment](run)
        run.process.send_signal(number)
        assert run.wait(10) == 130, (moment, run.said)
        assert "interrupted" in run.last_line
        assert run.last_line.endswith("nothing is lost: start the same command again, and it goes on")
        if moment in ("waves", "publish"):
            n_said = int(re.search(r"with (\d+) of 600 rows complete", run.last_line)[1])
            # A wave may have ended in this very moment, before that could be noted; two run at once.
            assert 0 <= len(out.complete()) - n_said <= (2 * WAVE_ROWS if moment == "waves" else 0)
        assert "Traceback" not in run.said
        assert "\tat " not in run.said
        run.await_silence()
        assert run.last_line.endswith("it goes on")  # the dying have said nothing more
        assert not complete & set(run.images())
    go_on_here(out)
    out.assert_same(uninterrupted)
    out.assert_tidy()


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_all_processes_and_impatience_ends_it_at_once(start, tmp_path):
    out = Folder(tmp_path / "out")
    run = start(out.root, row_s=0.01)
    run.await_(lambda: len(run.images()) > 100, "100 images")
    for _ in range(5):
        os.killpg(run.process.pid, signal.SIGINT)
    assert run.wait(10) == 130, run.said
    assert "Traceback" not in run.said
    run.await_silence()


@pytest.mark.crash
@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a worker looks for its daemon between two batches"
)
def test_a_worker_ends_with_its_daemon_in_the_middle_of_a_task(start, tmp_path):
    """Two signals at one moment can end the daemon before it has told its workers."""
    run = start(tmp_path / "out", hold=IN_PUBLISH, row_s=0.001)
    worker = psutil.Process(run.await_hold())
    worker.parent().kill()
    worker.wait(20)


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_spark_submit_alone_ends_the_driver_too(
    start, go_on_here, tmp_path, uninterrupted, number
):
    """As EMR cancels a step: spark-submit gets the signal, and not the Python that it has started."""
    submit = (BIN / "spark-submit", "--master", "local[2]", REPOSITORY / "jobs/embed.py")
    out = Folder(tmp_path / "out")
    for moment in ("preflight", "waves", "publish"):
        complete = out.complete()
        run = start(out.root, program=submit, hold=IN_PUBLISH if moment == "publish" else None, row_s=0.01)
        MOMENTS[moment](run)
        run.process.send_signal(number)
        assert run.wait(10) in (128 + number, -number), (moment, run.said)
        run.await_silence(10)
        assert not complete & set(run.images())
    go_on_here(out)
    out.assert_same(uninterrupted)
    out.assert_tidy()
