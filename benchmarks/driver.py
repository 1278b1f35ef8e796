"""How the driver's work grows with tasks: its CPU seconds for each thousand, and its memory (Linux).

Usage: python -m benchmarks.driver [--executors 10,100,1000]

Tasks that do nothing: shards of two rows without an image, each a task, four tasks for each executor that
the run could have had. They run on two executors that are JVMs of their own (local-cluster), so that what is
left is the driver's: its Python and its JVM, which list, plan, schedule, commit, count, mark and publish. The
fixed seconds (imports, session, preflight) are those of a run of one task.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.data import CACHE
from benchmarks.many_shards import make_shards
from benchmarks.measure import REPOSITORY, environment
from benchmarks.processes import Process, cpu_by_kind, watch
from benchmarks.report import describe_machine, warn_if_busy

TASKS_PER_EXECUTOR = 4
OF_DRIVER = ("driver", "jvm")
_ONE_TASK_EACH = {"maxPartitionBytes": "64m", "openCostInBytes": "64m"}


def run(n_tasks: int) -> list[Process]:
    """Run the job with so many tasks; returns its processes."""
    output = CACHE / "runs" / "driver"
    shutil.rmtree(output, ignore_errors=True)
    shards = CACHE / "many_shards" / str(n_tasks)
    make_shards(shards, n_tasks)
    submit = [Path(sys.executable).parent / "spark-submit", "--master", "local-cluster[2,1,1024]"]
    settings = {f"spark.sql.files.{name}": value for name, value in _ONE_TASK_EACH.items()}
    settings |= {"spark.executor.memory": "512m"}
    confs = [word for setting in settings.items() for word in ("--conf", "=".join(setting))]
    options = ["--input_dir", shards, "--output_dir", output, "--parity_samples", "0", "--wave_s", "1000000"]
    command = [*submit, *confs, REPOSITORY / "jobs/embed.py", *options]
    processes = watch(command, output=subprocess.DEVNULL, env=environment())
    metadata = json.loads((output / "metadata.json").read_text())
    assert metadata["n_tasks"] == n_tasks, metadata["n_tasks"]
    return processes


def driver_s(processes: list[Process]) -> float:
    """Return the CPU seconds of the driver's Python and JVM."""
    return sum(seconds for kind, seconds in cpu_by_kind(processes).items() if kind in OF_DRIVER)


def driver_mib(processes: list[Process], kind: str) -> int:
    """Return the most memory of the driver's Python ("driver") or JVM ("jvm")."""
    return round(max(one.peak_bytes for one in processes if one.kind == kind) / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executors", default="10,100,1000")
    given = parser.parse_args()
    machine = describe_machine()
    warn_if_busy(machine)
    fixed_s = driver_s(run(1))
    print("| executors | tasks | driver CPU s | per 1,000 tasks | Python MiB | JVM MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for n_executors in map(int, given.executors.split(",")):
        n_tasks = n_executors * TASKS_PER_EXECUTOR
        processes = run(n_tasks)
        spent_s = driver_s(processes)
        memory = [driver_mib(processes, kind) for kind in OF_DRIVER]
        per_thousand = (spent_s - fixed_s) / n_tasks * 1000
        cells = [f"{n_executors:,}", f"{n_tasks:,}", f"{spent_s:.1f}", f"{per_thousand:.1f}", *memory]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    print(f"\nA run of one task: {fixed_s:.1f} s. Measured {machine['date']} on {machine['cores']} cores.")


if __name__ == "__main__":
    main()
