"""The job against two bare loops and the two published shapes, in two regimes; and the cost of a result row.

Usage: python -m benchmarks.bench [--regime NAME] [--rounds N] [--sizes SMALL,LARGE] [--only names]

Prints Markdown tables of ratios against the tuned loop and writes JSON beside them; docs/speed.md explains.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import CACHE, REGIMES, Regime, make_model, make_shards
from benchmarks.measure import REPOSITORY, RUNS, System, measure_rounds
from benchmarks.memory import measure_memory
from benchmarks.report import describe_machine, markdown, summarize, warn_if_busy, write_result

N_CORES = len(os.sched_getaffinity(0))

TUNED = "tuned loop"
TUNED_FLOAT32 = "tuned loop, float32"
JOB = "spark_embed"

OTHERS = ("noop", "memory")
"""What is measured besides the regimes."""


def find_systems(regime: Regime, cache: Path = CACHE) -> list[System]:
    """Return what is measured in a regime; "auto" is the job's default precision."""
    jobs = [job(regime, "auto", JOB, cache), job_of_one_task(regime, cache)]
    loops = [
        loop(regime, "tuned", "auto", TUNED, cache),
        loop(regime, "plain", "float32", "plain loop", cache),
    ]
    if regime.name == "model":  # precision decides here, so both are compared in both
        jobs.append(job(regime, "float32", f"{JOB}, float32", cache))
        loops.append(loop(regime, "tuned", "float32", TUNED_FLOAT32, cache))
    return [*jobs, *loops, shape(regime, "predict-batch-udf", cache), shape(regime, "two-udfs", cache)]


def job(regime: Regime, dtype: str, name: str, cache: Path = CACHE) -> System:
    """Return the job as its command is typed."""
    return System(
        name,
        lambda n_images, output: [
            Path(sys.executable).parent / "spark-embed",
            *("--input_dir", make_shards(regime, n_images, cache)),
            *("--output_dir", output),
            *("--model_directory", make_model(regime.model, cache)),
            *("--num_workers", str(N_CORES)),
            *("--dtype", dtype),
        ],
        dtype,
    )


def job_of_one_task(regime: Regime, cache: Path = CACHE) -> System:
    """Return the job with one task that has all cores, instead of one task on each."""
    submit = [
        *(Path(sys.executable).parent / "spark-submit", "--master", f"local[{N_CORES},4]"),
        *("--properties-file", REPOSITORY / "conf/local.conf", "--conf", f"spark.task.cpus={N_CORES}"),
        REPOSITORY / "jobs/embed.py",
    ]
    return System(
        f"{JOB}, one task",
        lambda n_images, output: [
            *submit,
            *("--input_dir", make_shards(regime, n_images, cache)),
            *("--output_dir", output),
            *("--model_directory", make_model(regime.model, cache)),
        ],
        "auto",
    )


def loop(regime: Regime, which: str, dtype: str, name: str, cache: Path = CACHE) -> System:
    """Return one of the bare loops."""
    program = [sys.executable, "-m", "benchmarks.loops", which]
    return System(
        name,
        lambda n_images, output: [*program, *folders(regime, n_images, output, cache), "--dtype", dtype],
        dtype,
    )


def shape(regime: Regime, which: str, cache: Path = CACHE) -> System:
    """Return one of the published Spark shapes."""
    program = [sys.executable, "-m", "benchmarks.spark_shapes", which]
    return System(
        which,
        lambda n_images, output: [*program, *folders(regime, n_images, output, cache)],
        "float32",
    )


def folders(regime: Regime, n_images: int, output: Path, cache: Path = CACHE) -> list[Path]:
    """Return the three folders that every program here takes: input, output, model."""
    return [make_shards(regime, n_images, cache), output, make_model(regime.model, cache)]


def pick(systems: Sequence[System], only: str | None) -> list[System]:
    """Return the systems whose names begin with one of the comma-separated words, the tuned loop included."""
    words = tuple(word.strip() for word in only.split(",")) if only else ("",)
    return [system for system in systems if system.name == TUNED or system.name.startswith(words)]


def measure_regime(regime: Regime, options: argparse.Namespace) -> None:
    """Measure one regime, print its table, write its JSON."""
    sizes = options.sizes or regime.sizes
    for n_images in sizes:
        make_shards(regime, n_images)
    machine = describe_machine()
    warn_if_busy(machine)
    systems = pick(find_systems(regime), options.only)
    lines = measure_rounds(systems, sizes, options.rounds, warm_up=not options.no_warm_up)
    result = summarize(regime.name, lines, systems, [TUNED, TUNED_FLOAT32])
    result |= {"machine": machine, "job": [describe_job(system) for system in systems if is_job(system)]}
    name_dtypes(result)
    print(f"{markdown(result)}\n")
    print(f"written to {write_result(result)}", file=sys.stderr)


def is_job(system: System) -> bool:
    return system.name.startswith(JOB)


def describe_job(system: System) -> dict[str, object]:
    """Return what the job's last run says of itself: the precision that it chose, and where its time went."""
    record = json.loads((RUNS / system.name / "metadata.json").read_text())
    kept = {name: record.get(name) for name in ("timings_s", "stage_s", "parity", "verdict")}
    return {"name": system.name, "dtype": record["model"]["dtype"], **kept}


def name_dtypes(result: dict[str, Any]) -> None:
    """Replace "auto" by what it became: the job's from its record, a loop's by the job's rule."""
    from spark_embed.models.device import resolve_dtype

    of_job = {job["name"]: job["dtype"] for job in result["job"]}
    for row in result["rows"]:
        if row["dtype"] == "auto":
            row["dtype"] = of_job.get(row["name"]) or resolve_dtype("auto", "cpu")
    dtypes = {row["dtype"] for row in result["rows"] if row["name"] in (JOB, TUNED)}
    if len(dtypes) > 1:
        print(f"warning: {JOB} and the {TUNED} differ in precision: {dtypes}", file=sys.stderr)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all measurements of whole processes have."""
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=parse_sizes, help="two numbers of images, such as 4000,16000")
    parser.add_argument("--only", help="how names begin, with commas between; the tuned loop is always in")
    parser.add_argument("--no_warm_up", action="store_true", help="count the first run of each, too")


def parse_sizes(text: str) -> tuple[int, int]:
    small, large = (int(part) for part in text.split(","))
    return small, large


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--regime", choices=[*REGIMES, *OTHERS], help="default: all, one after the other")
    add_options(parser)
    options = parser.parse_args()
    for name in [options.regime] if options.regime else [*REGIMES, *OTHERS]:
        if name == "noop":
            from benchmarks.noop import measure_noop

            measure_noop(options.rounds)
        elif name == "memory":
            measure_memory(lambda regime: job(regime, "auto", JOB))
        else:
            measure_regime(REGIMES[name], options)


if __name__ == "__main__":
    main()
