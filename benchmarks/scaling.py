"""How throughput grows with executors: 1, 2 and 4 of one core each, and a model whose `predict` sleeps.

Usage: python -m benchmarks.scaling [--executors 1,2,4] [--seconds 30]

A sleeping model stands for one on a GPU: it takes its time and no core of this machine, so that what is
measured is the job around it (planning, tasks, waves, results, markers), not how many cores there are.
Executors are JVMs of their own (local-cluster). Each number of them is a process: a first run lets every
executor load the model, a second is measured, by the seconds in which it embeds; what a run costs besides the
images (the first tasks' start, the last commit) is in them. The data grow with the executors, so that every
executor always has the same to do.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from spark_embed.models import Prediction, Recipe, Takes
from spark_embed.schema import EMBEDDING, EMBEDDING_RESULTS

from benchmarks.data import CACHE, encode_jpeg
from benchmarks.measure import REPOSITORY, environment
from benchmarks.report import describe_machine, warn_if_busy

FOLDER = CACHE / "scaling"
ROW_S = 0.02
ROWS_PER_SHARD = 50
WARM_UP_S = 3
DIM = 64


class SleepingModel:
    """Implements `spark_embed.models.Model` without torch: `ROW_S` for each image, on no core."""

    takes = Takes(image="pixels")
    gives = EMBEDDING_RESULTS
    codes = frozenset[str]()
    reference = None

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = replace(recipe, device="cpu", dtype="float32")

    def describe(self):
        """Say what it is."""
        return {"name": "sleeping", "source": "", "device": "cpu", "dtype": "float32", "embedding_dim": DIM}

    def prepare(self, inputs):
        """Take next to nothing of the image."""
        return inputs.image.mean()

    def predict(self, batch):
        """Sleep."""
        time.sleep(ROW_S * len(batch))
        vectors = np.ones((len(batch), DIM), dtype=np.float32)
        return Prediction({EMBEDDING: vectors / np.sqrt(DIM)}, {})


def make_shards(n_rows: int) -> Path:
    """Write as many small images."""
    folder = FOLDER / str(n_rows)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    image = encode_jpeg(Image.new("RGB", (64, 64), (200, 120, 40)), 90)
    table = pa.table({"jpg": [image] * ROWS_PER_SHARD})
    for shard in range(n_rows // ROWS_PER_SHARD):
        pq.write_table(table, folder / f"{shard:05d}.parquet")
    return folder


def run_sizes(n_executors: int, sizes: tuple[int, ...]) -> float:
    """Return the seconds in which the job embeds the last of these numbers of rows, in one session."""
    from pyspark.sql import SparkSession

    from spark_embed import pipeline
    from spark_embed.config import Config
    from spark_embed.inference import udf

    builder = SparkSession.builder.master(f"local-cluster[{n_executors},1,1024]")
    builder = builder.config("spark.log.level", "WARN").config("spark.ui.enabled", "false")
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    spark = builder.config("spark.executor.memory", "512m").getOrCreate()
    with patch.object(udf, "find_kind", lambda model_directory: "benchmarks.scaling:SleepingModel"):
        for n_rows in sizes:
            output = FOLDER / f"out-{n_executors}"
            config = {"input_dir": str(make_shards(n_rows)), "output_dir": str(output), "overwrite": True}
            summary = pipeline.run(spark, Config(**config))
            assert summary.counts.embedded == n_rows
    spark.stop()
    return summary.timings_s["embed"]


def measure(n_executors: int, work_s: int) -> float:
    """Return the images per second of a run with so much work for each executor, in a process of its own."""
    rows = [round(n_executors * s / ROW_S) for s in (WARM_UP_S, work_s)]
    sizes = [max(ROWS_PER_SHARD, n_rows - n_rows % ROWS_PER_SHARD) for n_rows in rows]
    command = [sys.executable, "-m", __spec__.name, "--run", f"{n_executors}:{','.join(map(str, sizes))}"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, check=True)
    return sizes[-1] / float(done.stdout.splitlines()[-1])


def markdown(rates: dict[int, float]) -> str:
    """Return the table and a plot that GitHub draws."""
    one = next(iter(rates.values())) / next(iter(rates))
    heads = ["executors", "images/s", "of linear", "of what the models alone could do"]
    rows = [f"| {' | '.join(heads)} |", "| --- | --- | --- | --- |"]
    for n_executors, rate in rates.items():
        linear, limit = n_executors * one, n_executors / ROW_S
        rows.append(f"| {n_executors} | {rate:,.1f} | {rate / linear:.3f} | {rate / limit:.3f} |")
    measured = ", ".join(f"{rate:.1f}" for rate in rates.values())
    linear = ", ".join(f"{n_executors * one:.1f}" for n_executors in rates)
    plot = [
        "```mermaid",
        "xychart-beta",
        f"    x-axis executors [{', '.join(map(str, rates))}]",
        f'    y-axis "images/s" 0 --> {max(rates) / ROW_S:.0f}',
        f"    bar [{measured}]",
        f"    line [{linear}]",
        "```",
    ]
    return "\n".join([*rows, "", *plot])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executors", default="1,2,4")
    parser.add_argument("--seconds", type=int, default=30, help="of work for each executor")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        number, _, sizes = given.run.partition(":")
        print(run_sizes(int(number), tuple(map(int, sizes.split(",")))))
        return
    machine = describe_machine()
    warn_if_busy(machine)
    numbers = map(int, given.executors.split(","))
    print(markdown({number: measure(number, given.seconds) for number in numbers}))
    print(f"\nMeasured {machine['date']} on {machine['cores']} cores, load before {machine['load_before']}.")


if __name__ == "__main__":
    main()
