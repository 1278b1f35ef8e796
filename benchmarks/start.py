"""What it takes to start: 100 images of the tiny model, in each form of the command, against the tuned loop.

Usage: python -m benchmarks.start [--rounds 3] [--model tiny|vit-b-32] [--only words]

Whole processes in interleaved rounds; medians. With so few images a run is its fixed seconds. The CPU seconds
of the processes say what two busy cores have to do, whatever the clock says; the job's own seconds are those
of metadata.json, and what came before and after them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.data import CACHE, FEED, make_model, make_shards
from benchmarks.measure import REPOSITORY, environment
from benchmarks.processes import cpu_by_kind, watch
from benchmarks.report import describe_machine, warn_if_busy

START = replace(FEED, name="start", n_distinct=100, rows_per_shard=100, rows_per_group=100)
OUTPUT = CACHE / "runs" / "start"
BIN = Path(sys.executable).parent
STAGES = ("start", "plan", "preflight", "embed", "publish")
KINDS = ("driver", "jvm", "daemon", "worker")


@dataclass
class Measured:
    """Of one form of the command, a value per round."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[dict[str, float]] = field(default_factory=list)
    stages_s: list[dict[str, float]] = field(default_factory=list)


def forms(model: Path) -> dict[str, list[str | Path]]:
    """Return the commands by the name of their row."""
    options = ["--input_dir", make_shards(START, 100), "--output_dir", OUTPUT, "--model_directory", model]
    job = [REPOSITORY / "jobs/embed.py", *options]
    properties = ["--properties-file", REPOSITORY / "conf/local.conf"]
    return {
        "tuned loop": [sys.executable, "-m", "benchmarks.loops", "tuned", *options[1::2]],
        "spark-embed": [BIN / "spark-embed", *options],
        "spark-submit": [BIN / "spark-submit", *job],
        "spark-submit, conf/local.conf": [BIN / "spark-submit", *properties, *job],
        "spark-embed, no such model": [BIN / "spark-embed", *options[:-1], "/no/such/model"],
        "spark-submit, no such model": [BIN / "spark-submit", *job[:-1], "/no/such/model"],
        "spark-embed, a wrong option": [BIN / "spark-embed", *options, "--batch_sise", "8"],
    }


def measure(command: Sequence[str | Path], measured: Measured) -> None:
    """Run a command once, in an output folder that is not there."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    started = time.perf_counter()
    processes = watch(command, output=subprocess.DEVNULL, env=environment(), check=False)
    wall_s = time.perf_counter() - started
    measured.wall_s.append(wall_s)
    measured.cpu_s.append(cpu_by_kind(processes))
    record = OUTPUT / "metadata.json"
    if record.exists():
        measured.stages_s.append(json.loads(record.read_text())["timings_s"] | {"wall": wall_s})


def median(values: Sequence[dict[str, float]], name: str) -> float:
    return statistics.median(value.get(name, 0.0) for value in values)


def row(name: str, measured: Measured) -> str:
    """Return a line of the table."""
    wall = measured.wall_s
    cells = [name, f"{statistics.median(wall):.1f} ({min(wall):.1f}-{max(wall):.1f})"]
    stages = measured.stages_s
    if stages:
        outside = [{"outside": stage["wall"] - stage["total"]} for stage in stages]
        cells += [f"{median(outside, 'outside'):.1f}", *(f"{median(stages, one):.1f}" for one in STAGES)]
    else:
        cells += [""] * (1 + len(STAGES))
    cells += [f"{median(measured.cpu_s, kind):.1f}" for kind in KINDS]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--only", default="", help="comma-separated beginnings of names")
    given = parser.parse_args()
    machine = describe_machine()
    warn_if_busy(machine)
    words = tuple(given.only.split(","))
    commands = {k: v for k, v in forms(make_model(given.model)).items() if k.startswith(words)}
    table = {name: Measured() for name in commands}
    for number in range(given.rounds + 1):  # the first is not counted: files into the page cache
        for name, command in commands.items():
            measure(command, table[name] if number else Measured())
    heads = ["form", "seconds", "around", *STAGES, *(f"{kind} CPU s" for kind in KINDS)]
    print(f"| {' | '.join(heads)} |\n| {' | '.join(['---'] * len(heads))} |")
    for name, measured in table.items():
        print(row(name, measured))
    print(f"\n{given.rounds} rounds, model {given.model}. {machine}")


if __name__ == "__main__":
    main()
