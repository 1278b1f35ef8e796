"""A run on a cluster of one executor with fake GPUs, in a process of its own: a JVM has one SparkContext.

`python -m support.gpu_cluster N_GPUS KIND OPTION=VALUE ...` runs the job with that kind of model.
"""

import os
import stat
import subprocess
import sys
from pathlib import Path

from support.checkout import TESTS


def run_with_gpus(n_gpus: int, folder: Path, kind: str, **options) -> subprocess.CompletedProcess:
    """Run the job on one executor with that many GPUs, none of which torch finds; `folder` is for scratch."""
    script = folder / "discover.sh"
    addresses = ", ".join(f'"{number}"' for number in range(n_gpus))
    script.write_text(f"""#!/bin/sh\necho '{{"name": "gpu", "addresses": [{addresses}]}}'\n""")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    given = [f"{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "support.gpu_cluster", str(n_gpus), str(script), kind, *given]
    path = os.pathsep.join(filter(None, [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "SPARK_LOCAL_DIRS": str(folder)}
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=200
    )


def main() -> None:
    from pyspark.sql import SparkSession

    from spark_embed.config import Config
    from spark_embed.inference import udf
    from spark_embed.pipeline import run

    n_gpus, script, kind, *options = sys.argv[1:]
    settings = {
        "spark.worker.resource.gpu.amount": n_gpus,
        "spark.worker.resource.gpu.discoveryScript": script,
        "spark.executor.resource.gpu.amount": n_gpus,
        "spark.task.resource.gpu.amount": "1",
        "spark.python.daemon.module": "spark_embed.spark.worker_daemon",
        "spark.executorEnv.PYTHONPATH": os.environ["PYTHONPATH"],
        "spark.sql.files.maxPartitionBytes": "64m",  # a task for each file, as large as that
        "spark.sql.files.openCostInBytes": "64m",
        "spark.ui.enabled": "false",
    }
    builder = SparkSession.builder.master(f"local-cluster[1,{n_gpus},1024]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    udf.find_kind = lambda model_directory: kind
    try:
        sys.stdout.write(run(spark, Config(**dict(option.split("=", 1) for option in options))).text())
    finally:
        spark.stop()


if __name__ == "__main__":
    main()
