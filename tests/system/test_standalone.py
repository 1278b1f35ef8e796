"""The commands of docs/clusters.md on a standalone cluster of two nodes; one executor is killed."""

import json

import psutil
import pytest

from support.cluster import Cluster
from support.crashes import Folder, Run, n_again
from support.event_log import busy_shares, n_failed, wave_tasks

N_NODES = 2


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster") / "standalone", N_NODES) as cluster:
        yield cluster


@pytest.fixture
def out(tmp_path) -> Folder:
    return Folder(tmp_path / "out")


def kill_executor(run: Run) -> None:
    """Kill -9 of the executor whose Python worker has predicted last."""
    parents = psutil.Process(run.workers()[0]).parents()
    next(one for one in parents if "CoarseGrainedExecutorBackend" in " ".join(one.cmdline())).kill()


def test_executors_share_the_work_and_load_a_model_each(cluster, submit, out, uninterrupted):
    """The package comes with --py-files to nodes whose Python does not have it."""
    daemon = {"spark.python.daemon.module": "spark_embed.spark.worker_daemon"}
    run = submit(cluster, "--py-files", out.root, daemon, row_s=0.02, wave_rows=600)
    assert run.wait() == 0, run.said
    out.assert_same(uninterrupted)
    out.assert_tidy()
    shares = busy_shares(wave_tasks(run.events))
    assert len(shares) == N_NODES
    assert min(shares.values()) >= 0.8, shares
    metadata = json.loads((out.root / "metadata.json").read_text())
    executors = metadata["executors"].values()
    assert sorted(one["n_model_loads"] for one in executors) == [0, 1]  # one has preflight's
    assert sum(one["n_rows"] for one in executors) == metadata["counts"]["rows"]
    assert metadata["n_rows_again"] == 0


def test_an_executor_that_is_killed_costs_the_tasks_it_was_at(cluster, submit, out, uninterrupted):
    """The whole environment comes with --archives, to nodes that have none."""
    run = submit(cluster, "--archives", out.root, row_s=0.02, wave_rows=150)
    run.await_(lambda: len(run.images()) >= 50, "50 images")
    kill_executor(run)
    assert run.wait() == 0, run.said
    out.assert_same(uninterrupted)
    out.assert_tidy()
    assert n_failed(run.events) == 1  # of its one core
    assert n_again(run) <= json.loads((out.root / "metadata.json").read_text())["n_rows_again"] <= 150
    run.await_silence()
