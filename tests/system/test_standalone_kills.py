"""What leaves a standalone cluster for good, or at its own pace: nodes, the driver, the master."""

import os
import signal

import pytest

from support.cluster import Cluster, kill_all
from support.crashes import WAVE_ROWS, Folder, Run, n_again
from support.event_log import n_failed

N_NODES = 3
WAVES_AT_ONCE = 2


@pytest.fixture
def cluster(tmp_path):
    properties = {"spark.decommission.enabled": "true"}
    with Cluster(tmp_path / "standalone", N_NODES, properties) as cluster:
        yield cluster


@pytest.fixture
def out(tmp_path) -> Folder:
    return Folder(tmp_path / "out")


def begin(submit, cluster: Cluster, out: Folder, **settings: str) -> Run:
    run = submit(cluster, "--py-files", out.root, settings, row_s=0.05)
    run.await_(lambda: len(run.images()) >= 60, "60 images")
    return run


@pytest.mark.crash
def test_a_node_that_leaves_for_good_costs_the_tasks_it_was_at(cluster, submit, out, uninterrupted):
    run = begin(submit, cluster, out)
    kill_all(cluster.workers[0])
    assert run.wait() == 0, run.said
    out.assert_same(uninterrupted)
    out.assert_tidy()
    assert n_failed(run.events) == 1  # of its one core
    assert n_again(run) <= WAVE_ROWS
    cluster.await_workers(N_NODES - 1)


@pytest.mark.crash
def test_a_node_that_is_told_to_go_finishes_its_task(cluster, submit, out, uninterrupted):
    run = begin(submit, cluster, out, **{"spark.decommission.enabled": "true"})
    os.kill(cluster.workers[0].pid, signal.SIGPWR)
    assert run.wait() == 0, run.said
    out.assert_same(uninterrupted)
    out.assert_tidy()
    assert "DECOMMISSIONED" in {worker["state"] for worker in cluster.state()["workers"]}
    assert (n_failed(run.events), n_again(run)) == (0, 0)


@pytest.mark.crash
def test_a_driver_that_is_killed_and_started_again_goes_on(cluster, submit, out, uninterrupted):
    run = begin(submit, cluster, out)
    complete = out.complete()
    for process in run.processes():
        if "jobs/embed.py" in " ".join(process.cmdline()):
            process.kill()
    run.wait()
    run.await_silence()
    again = submit(cluster, "--py-files", out.root)
    assert again.wait() == 0, again.said
    out.assert_same(uninterrupted)
    out.assert_tidy()
    assert not complete & set(again.images())
    assert n_again(run, again) <= WAVES_AT_ONCE * WAVE_ROWS


@pytest.mark.crash
def test_a_master_that_goes_away_does_not_stop_a_run(cluster, submit, out, uninterrupted):
    run = begin(submit, cluster, out)
    kill_all(cluster.master)
    assert run.wait() == 0, run.said
    out.assert_same(uninterrupted)
    out.assert_tidy()
    assert n_again(run) == 0
