"""Runs on a cluster of two executors with fake GPUs, in a process of their own: a JVM has one SparkContext.

`python -m support.gpu_cluster SCRIPT RUNS` runs the job as often as the JSON list says, each time with a kind
of model and options, and writes what came of each as a line of JSON: its summary's text, or its error's.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from support.checkout import TESTS
from support.where_it_ran import FIRST_EXECUTOR

N_GPUS = 2
_SETTINGS = {
    "spark.worker.resource.gpu.amount": N_GPUS,
    "spark.executor.resource.gpu.amount": N_GPUS,
    "spark.task.resource.gpu.amount": 1,
    "spark.scheduler.minRegisteredResourcesRatio": 1.0,
    "spark.sql.files.maxPartitionBytes": "64m",  # a task for each file, as large as that
    "spark.sql.files.openCostInBytes": "64m",
    "spark.python.daemon.module": "spark_embed.spark.worker_daemon",  # a worker that fails imports nothing
    "spark.ui.enabled": "false",
}


def run_on_gpus(folder: Path, runs: list[dict[str, str]]) -> tuple[list[dict[str, str]], str]:
    """Run the job on executors with GPUs that torch does not find; returns the results and what was logged.

    Args:
        folder: for scratch files.
        runs: options of each run, and its "kind".
    """
    script = folder / "discover.sh"
    script.write_text(f"#!/bin/sh\necho '{json.dumps({'name': 'gpu', 'addresses': ['0', '1']})}'\n")
    script.chmod(0o700)
    path = os.pathsep.join(filter(None, [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "SPARK_LOCAL_DIRS": str(folder)}
    command = [sys.executable, "-m", "support.gpu_cluster", str(script), json.dumps(runs)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=folder, process_group=0, **pipes) as process:
        try:
            stdout, stderr = process.communicate(timeout=250)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with its JVM and executors
            raise
    assert process.returncode == 0, stderr
    return list(map(json.loads, stdout.splitlines())), stderr


def main() -> None:
    """Start the cluster and do the runs."""
    from pyspark.sql import SparkSession

    from spark_embed.config import Config
    from spark_embed.errors import SparkEmbedError
    from spark_embed.inference import recipes
    from spark_embed.pipeline import run

    script, runs = sys.argv[1], json.loads(sys.argv[2])
    settings = {
        **_SETTINGS,
        "spark.worker.resource.gpu.discoveryScript": script,
        "spark.executorEnv.PYTHONPATH": os.environ["PYTHONPATH"],
        f"spark.executorEnv.{FIRST_EXECUTOR}": str(Path("first").absolute()),
    }
    builder = SparkSession.builder.master(f"local-cluster[2,{N_GPUS},1024]")
    for name, value in settings.items():
        builder = builder.config(name, str(value))
    spark = builder.getOrCreate()
    try:
        for options in runs:
            kind, started = options.pop("kind"), time.monotonic()
            assert recipes.find_kind, "it has moved"
            recipes.find_kind = lambda options, kind=kind: kind
            try:
                result = {"said": run(spark, Config(**options)).text()}
            except SparkEmbedError as exc:
                result = {"error": type(exc).__name__, "said": str(exc)}
            sys.stdout.write(json.dumps({**result, "seconds": time.monotonic() - started}) + "\n")
    finally:
        spark.stop()


if __name__ == "__main__":
    main()
