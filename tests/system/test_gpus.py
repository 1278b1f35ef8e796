"""Several GPUs in one executor, faked by a discovery script: a model on each, and each model kept."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.gpu_cluster import run_with_gpus
from support.where_it_ran import KIND

pytestmark = pytest.mark.slow


def test_each_gpu_of_an_executor_has_one_model_and_one_task(photo_bytes, tmp_path):
    (tmp_path / "in").mkdir()
    for shard in range(12):
        pq.write_table(pa.table({"jpg": photo_bytes[:6]}), tmp_path / f"in/{shard:02}.parquet")
    options = {"input_dir": tmp_path / "in", "output_dir": tmp_path / "out", "batch_size": 2}
    done = run_with_gpus(2, tmp_path, KIND, **options)
    assert done.returncode == 0, done.stderr
    metadata = json.loads((tmp_path / "out/metadata.json").read_text())
    rows = pd.read_parquet(tmp_path / "out/predictions.parquet")
    assert len(rows) == metadata["counts"]["rows"] == 72

    assert (metadata["n_executors"], metadata["n_rows_again"]) == (1, 0)
    (executor,) = metadata["executors"].values()
    assert executor["devices"] == ["cuda:0", "cuda:1"]
    assert (executor["n_tasks"], executor["n_rows"]) == (12, 72)
    assert executor["n_model_loads"] <= 2  # of one of them preflight's worker had the model
    assert rows["pid"].nunique() == 2
    assert (rows.groupby("pid")["device"].nunique() == 1).all()
    for _, tasks in rows.groupby("device"):
        times = tasks.groupby("task")["at_s"].agg(["min", "max"]).sort_values("min")
        assert (times["min"].iloc[1:].to_numpy() > times["max"].iloc[:-1].to_numpy()).all()
    assert metadata["model"]["device"] == "cuda"
