"""What a worker's memory does: over 20,000 images, and with twenty photos of 24 megapixels in a row.

Usage: python -m benchmarks.bench --regime memory
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable

from benchmarks.data import FEED, LARGE, Regime
from benchmarks.measure import RUNS, System
from benchmarks.processes import Process, watch
from benchmarks.report import Result, describe_machine, markdown, write_result

N_IMAGES = 20_000
N_LARGE = 40

# The first thousand images of two workers, and a worker's start.
_BEGINNING = 0.08
# A worker that did little of the work says nothing about growth.
_MIN_CPU_S = 2.0


def measure_memory(make_job: Callable[[Regime], System]) -> None:
    """Measure, print the table, write the JSON."""
    many, large = (_workers(make_job(regime), n) for regime, n in ((FEED, N_IMAGES), (LARGE, N_LARGE)))
    result: Result = {
        "kind": "memory",
        "n_images": N_IMAGES,
        "growth": max(worker.growth(after=_BEGINNING) for worker in many),
        "peak_bytes": max(worker.peak_bytes for worker in many),
        "n_large": N_LARGE,
        "peak_bytes_large": max(worker.peak_bytes for worker in large),
        "machine": describe_machine(),
    }
    print(f"{markdown(result)}\n")
    print(f"written to {write_result(result)}", file=sys.stderr)


def _workers(job: System, n_images: int) -> list[Process]:
    output = RUNS / "memory"
    shutil.rmtree(output, ignore_errors=True)
    processes = watch(job.command(n_images, output))
    return [one for one in processes if one.kind == "worker" and one.cpu_s > _MIN_CPU_S]
