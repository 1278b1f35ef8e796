"""Whole processes at two sizes, in interleaved rounds, and the straight line through the two.

A run's seconds are taken as fixed + n / rate: the slope gives the steady images/s, the intercept the fixed
seconds (imports, session, model, publishing). One size alone would mix the two.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.data import CACHE

REPOSITORY = Path(__file__).parent.parent
RUNS = CACHE / "runs"


@dataclass(frozen=True)
class System:
    """Something that is measured.

    Attributes:
        name: what the table calls it.
        command: (number of images, output folder) -> the command that embeds that data set into the folder.
        dtype: the precision that it is told to use, as people write it.
    """

    name: str
    command: Callable[[int, Path], Sequence[str | Path]]
    dtype: str


@dataclass(frozen=True)
class Line:
    """One round of one system: its seconds at the two sizes."""

    sizes: tuple[int, int]
    seconds: tuple[float, float]

    @property
    def images_per_s(self) -> float:
        """The steady rate; NaN where the larger run was not the longer one."""
        longer = self.seconds[1] - self.seconds[0]
        return (self.sizes[1] - self.sizes[0]) / longer if longer > 0 else float("nan")

    @property
    def fixed_s(self) -> float:
        """The seconds that a run of no images would take."""
        return self.seconds[0] - self.sizes[0] / self.images_per_s


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, and the smallest and largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up one value per round."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int) -> str:
        """Return "median (low-high)"."""
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f}-{self.high:,.{digits}f})"


def measure_rounds(
    systems: Sequence[System], sizes: tuple[int, int], n_rounds: int, *, warm_up: bool = True
) -> dict[str, list[Line]]:
    """Run every system at both sizes, round by round (A B C A B C ...); returns a line per round.

    Each round begins with another system, so that none always has the same neighbour. The warm-up is a
    run of each that is not counted: files into the page cache, bytecode compiled.
    """
    if warm_up:
        for system in systems:
            run_once(system, sizes[0])
    lines: dict[str, list[Line]] = {system.name: [] for system in systems}
    for number in range(n_rounds):
        order = [*systems[number % len(systems) :], *systems[: number % len(systems)]]
        seconds = {size: {system.name: run_once(system, size) for system in order} for size in sizes}
        for name, rounds in lines.items():
            rounds.append(Line(sizes, (seconds[sizes[0]][name], seconds[sizes[1]][name])))
    return lines


def run_once(system: System, n_images: int) -> float:
    """Return the seconds of one whole process.

    Raises:
        SystemExit: it failed, or did not write one vector per image.
    """
    output = RUNS / system.name
    shutil.rmtree(output, ignore_errors=True)
    RUNS.mkdir(parents=True, exist_ok=True)
    log = RUNS / f"{system.name}.log"
    command = [str(part) for part in system.command(n_images, output)]
    with log.open("w") as file:
        started = time.perf_counter()
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment(), stdout=file, stderr=file, check=False
        )
        seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(f"{system.name} failed ({done.returncode}); the end of {log}:\n{_tail(log)}")
    if (n_vectors := count_vectors(output)) != n_images:
        raise SystemExit(f"{system.name} wrote {n_vectors} vectors for {n_images} images; see {log}")
    print(f"  {system.name:24} {n_images:7,} images {seconds:8.2f} s", file=sys.stderr, flush=True)
    return seconds


def count_vectors(output: Path) -> int:
    """Count the vectors below a folder: parquet files with a column of embeddings, or arrays (n, dim)."""
    n_vectors = 0
    for path in output.rglob("*.parquet"):
        if path.is_file() and {"embedding", "text_embedding"}.intersection(pq.read_schema(path).names):
            n_vectors += pq.read_metadata(path).num_rows
    return n_vectors + sum(len(np.load(path, mmap_mode="r")) for path in output.rglob("*.npy"))


def environment() -> Mapping[str, str]:
    """Return the environment of every run: this interpreter for Spark's workers, no hub, no telemetry."""
    return {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "DAFT_ANALYTICS_ENABLED": "0",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def ratios(lines: Mapping[str, Sequence[Line]], name: str, baseline: str) -> Spread:
    """Compare two systems' steady rates, each round with its own baseline."""
    pairs = zip(lines[name], lines[baseline], strict=True)
    return Spread.of([one.images_per_s / other.images_per_s for one, other in pairs])


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-15:])
