"""Executors with several GPUs each, faked by a discovery script: a model on each, and each model kept."""

import json
import re
import socket

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.gpu_cluster import run_on_gpus
from support.where_it_ran import FIRST_KIND, KIND

pytestmark = pytest.mark.slow

N_SHARDS, N_IMAGES = 16, 6


@pytest.fixture(scope="module")
def ran(photo_bytes, tmp_path_factory):
    """One cluster, two runs: all have GPUs; the GPUs of one executor are gone and --require_gpu is set."""
    folder = tmp_path_factory.mktemp("gpus")
    (folder / "in").mkdir()
    for shard in range(N_SHARDS):
        pq.write_table(pa.table({"jpg": photo_bytes[:N_IMAGES]}), folder / f"in/{shard:02}.parquet")
    options = {"input_dir": str(folder / "in"), "batch_size": 2}
    runs = [
        {**options, "output_dir": str(folder / "out"), "kind": KIND},
        {**options, "output_dir": str(folder / "gone"), "kind": FIRST_KIND, "require_gpu": True},
    ]
    (first, second), log = run_on_gpus(folder, runs)
    return folder, first, second, log


def test_each_gpu_of_an_executor_has_one_model_and_one_task(ran):
    folder, first, _, _ = ran
    metadata = json.loads((folder / "out/metadata.json").read_text())
    rows = pd.read_parquet(folder / "out/predictions.parquet")
    assert len(rows) == metadata["counts"]["rows"] == N_SHARDS * N_IMAGES

    assert metadata["n_executors"] == len(metadata["executors"]) == 2
    for name, executor in metadata["executors"].items():
        own = rows[rows["executor"] == name]
        assert executor["n_rows"] == len(own) == executor["n_tasks"] * N_IMAGES
        assert executor["devices"] == ["cuda:0", "cuda:1"]
        assert executor["n_model_loads"] <= 2  # preflight's worker has one of the models already
        assert own["pid"].nunique() == 2
    assert (rows.groupby("pid")["device"].nunique() == 1).all()
    for _, tasks in rows.groupby(["executor", "device"]):
        times = tasks.groupby("task")["at_s"].agg(["min", "max"]).sort_values("min")
        assert (times["min"].iloc[1:].to_numpy() > times["max"].iloc[:-1].to_numpy()).all()
    assert metadata["n_rows_again"] == 0
    assert metadata["model"]["device"] == "cuda"
    assert re.search(
        r"^where   2 executors, .* model.*; longest task .* s, median ", first["said"], re.MULTILINE
    )


def test_an_executor_without_its_gpu_ends_the_run_with_one_line(ran):
    folder, _, second, _ = ran
    host = re.escape(socket.gethostname())
    assert second["error"] == "ModelError"
    assert re.match(
        rf"--require_gpu true: torch \S+ finds no CUDA or MPS device on host {host}, though Spark gave this "
        r"task GPU [01] \(on a worker; what is complete stays so\)$",
        second["said"],
    )
    assert second["seconds"] < 60
    assert not (folder / "gone/metadata.json").exists()
