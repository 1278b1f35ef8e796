"""What very many tiny shards cost: listing, planning, waves, markers, resume.

Usage: python -m benchmarks.many_shards [--sizes 1000,10000,100000] [--wave_s 300]

Shards of two rows without an image, so that the model never runs and only the bookkeeping is left. Each size
runs twice, in a process of its own: from nothing, and again with everything complete.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

CACHE = Path(__file__).parent / ".cache" / "many_shards"


def make_shards(folder: Path, n_shards: int) -> None:
    """Write the shards, in folders of a thousand."""
    if (folder / ".complete").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    table = pa.table({"key": ["a", "b"], "jpg": pa.nulls(2, pa.binary())})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data = sink.getvalue().to_pybytes()
    for number in range(n_shards):
        path = folder / f"{number // 1000:04d}" / f"{number:07d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / ".complete").touch()


def measure(command: list[str]) -> dict[str, float]:
    """Run a command; returns its seconds, the largest memory of its Python driver and of its JVM, in MiB."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    largest = {"python": 0, "java": 0}
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            largest["python"] = max(largest["python"], watched.memory_info().rss)
            for child in watched.children():
                if child.name() == "java":
                    largest["java"] = max(largest["java"], child.memory_info().rss)
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    memory = {f"{name}_mib": round(n_bytes / 2**20) for name, n_bytes in largest.items()}
    return {"seconds": round(time.monotonic() - started, 1), **memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--wave_s", default="300")
    given = parser.parse_args()
    print("| shards | run | seconds | of these plan | waves | driver MiB | JVM MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for size in map(int, given.sizes.split(",")):
        folder, output = CACHE / str(size), CACHE / f"{size}-out"
        make_shards(folder, size)
        shutil.rmtree(output, ignore_errors=True)
        program = os.path.join(os.path.dirname(sys.executable), "spark-embed")
        command = [program, "--input_dir", str(folder), "--output_dir", str(output), "--parity_samples", "0"]
        command += ["--wave_s", given.wave_s]
        for run in ("first", "again"):
            told = measure(command)
            metadata = json.loads((output / "metadata.json").read_text())
            plan, waves = "", ""
            if run == "first":
                plan, waves = metadata["timings_s"]["plan"], metadata["this_run"]["n_waves"]
            cells = [f"{size:,}", run, told["seconds"], plan, waves, told["python_mib"], told["java_mib"]]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
