"""Workers and executors that are killed while a wave runs: the run finishes, no row is lost or doubled."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY

from spark_embed.output import Output
from spark_embed.verify import verify

N_ROWS = 600
PATIENCE_S = 120


@pytest.fixture
def folder(tmp_path, photo_bytes):
    """Shards that take a few seconds to embed."""
    (tmp_path / "in").mkdir()
    images = [photo_bytes[row % 6] for row in range(N_ROWS // 3)]
    for shard in range(3):
        pq.write_table(pa.table({"jpg": images}), tmp_path / f"in/{shard}.parquet", row_group_size=20)
    return tmp_path / "in"


def wait_for(condition, what):
    """Return what `condition` finds, once it finds something."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S} s"
        time.sleep(0.02)
    return found


def is_wave_under_way(out):
    """Say whether a task of a wave has begun to write."""
    return any((out / "_spark_embed/waves").glob("*/_temporary/0/_temporary/*/*"))


def processes_below(pid, words):
    """Return the living processes below one whose command holds the words."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if words in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def check_all_rows_are_there_once(out):
    tables = [pd.read_parquet(out / name) for name in ("embeddings.parquet", "errors.parquet")]
    assert [len(table) for table in tables] == [N_ROWS, 0]
    assert len(set(zip(tables[0]["shard"], tables[0]["shard_row"], strict=True))) == N_ROWS
    assert not verify(Output(str(out))).n_findings


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
def test_a_python_worker_that_is_killed_is_replaced(embed, folder):
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(embed, folder, batch_size=4)
        wait_for(lambda: is_wave_under_way(embed.output_dir) or run.done(), "a wave")
        daemons = processes_below(os.getpid(), "daemon")
        workers = [process for process in daemons if process.parent() in daemons]
        for worker in workers:
            worker.kill()
        run.result(PATIENCE_S)
    assert workers
    check_all_rows_are_there_once(embed.output_dir)


@pytest.mark.slow
def test_an_executor_that_is_killed_is_replaced(folder, tiny_clip, tmp_path):
    out = tmp_path / "out"
    command = [
        Path(sys.executable).parent / "spark-submit", "--master", "local-cluster[2,1,1024]",
        "--conf", "spark.log.level=ERROR", REPOSITORY / "jobs/embed.py", "--input_dir", folder,
        "--output_dir", out, "--model_directory", tiny_clip, "--batch_size", "4",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYSPARK_")}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=log, env=environment, cwd=tmp_path
        )
    try:
        wait_for(lambda: is_wave_under_way(out) or process.poll() is not None, "a wave")
        executors = processes_below(process.pid, "CoarseGrainedExecutorBackend")
        assert len(executors) == 2, (tmp_path / "log").read_text()[-2000:]
        executors[0].send_signal(signal.SIGKILL)
        assert process.wait(PATIENCE_S) == 0, (tmp_path / "log").read_text()[-2000:]
    finally:
        process.kill()
        process.wait()
    check_all_rows_are_there_once(out)
