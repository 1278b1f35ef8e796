"""What `spark-embed estimate` says from 200 images, beside a real run of 2,000 on the same machine.

Usage: python -m benchmarks.estimate [--models tiny,vit-b-32] [--rounds 3] [--n_images 2000] [--samples 200]

Each is a whole process, one after the other, round by round: what else runs on the machine meanwhile meets
both. A real run's seconds are the total of its metadata.json. In the end a run of the last model is stopped
at --max_hours, half-way, and the same command does the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys

from spark_embed.errors import StoppedError

from benchmarks.data import FEED, MODEL, make_model, make_shards
from benchmarks.measure import REPOSITORY, RUNS, environment
from benchmarks.report import describe_machine, warn_if_busy

PROGRAM = [sys.executable, "-m", "spark_embed"]
OUTPUT = RUNS / "estimate"
HEADS = ("model", "load", "estimate", "from-to", "real", "deviation", "images/s thought", "real")


def options(model: str, n_images: int) -> list[str]:
    regime = MODEL if model.startswith("vit") else FEED
    shards = make_shards(regime, n_images)
    return ["--input_dir", str(shards), "--model_directory", str(make_model(model))]


def call(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *argv], cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False
    )


def run_real(argv: list[str], *others: str) -> tuple[int, dict]:
    """Run the job; returns its exit code and metadata.json."""
    done = call(*argv, "--output_dir", str(OUTPUT), *others)
    if done.returncode not in (0, StoppedError.exit_code):
        raise SystemExit(done.stderr[-2000:])
    return done.returncode, json.loads((OUTPUT / "metadata.json").read_text())


def run_estimate(argv: list[str], n_samples: int) -> dict:
    done = call("estimate", *argv, "--samples", str(n_samples), "--json")
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout)


def row(model: str, argv: list[str], n_samples: int) -> tuple[str, float]:
    """Return a line of the table, and the deviation of the estimate."""
    load = os.getloadavg()[0]
    found = run_estimate(argv, n_samples)
    shutil.rmtree(OUTPUT, ignore_errors=True)
    _, real = run_real(argv)
    seconds = real["timings_s"]["total"]
    deviation = found["seconds"] / seconds - 1
    cells = [
        model, f"{load:.1f}", f"{found['seconds']:.1f} s", f"{found['least_s']:.1f}-{found['most_s']:.1f} s",
        f"{seconds:.1f} s", f"{deviation:+.0%}", f"{found['images_per_s']:,.0f}",
        f"{real['throughput']['images_per_s']:,.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |", deviation


def stop_half_way(argv: list[str], n_images: int) -> str:
    """Stop a run in the middle of what one took, let the same command go on; returns a sentence."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    total_s = run_real(argv)[1]["timings_s"]["total"]
    shutil.rmtree(OUTPUT)
    limit_s = 0.6 * total_s
    code, stopped = run_real(argv, "--max_hours", str(limit_s / 3600))
    status = json.loads(call("status", str(OUTPUT), "--json").stdout)["state"]
    again, whole = run_real(argv)
    verified = call("verify", str(OUTPUT)).returncode
    assert (code, status, again, verified) == (StoppedError.exit_code, "incomplete", 0, 0)
    assert whole["counts"]["rows"] == n_images
    assert stopped["counts"]["rows"] + whole["this_run"]["rows"] == n_images
    return (
        f"--max_hours {limit_s / 3600:.4f} ({limit_s:.1f} s of {total_s:.1f} s): ended after "
        f"{stopped['timings_s']['total']:.1f} s with exit code {code}, {stopped['counts']['rows']:,} of "
        f"{n_images:,} rows published; the same command did the other {whole['this_run']['rows']:,}, and "
        "verify finds nothing wrong"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="tiny,vit-b-32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--n_images", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=200)
    given = parser.parse_args()
    machine = describe_machine()
    warn_if_busy(machine)
    jobs = {model: options(model, given.n_images) for model in given.models.split(",")}
    for argv in jobs.values() if given.rounds else ():  # files into the page cache
        run_estimate(argv, given.samples)
    print(f"| {' | '.join(HEADS)} |\n| {' | '.join(['---'] * len(HEADS))} |")
    deviations: dict[str, list[float]] = {model: [] for model in jobs}
    for _ in range(given.rounds):
        for model, argv in jobs.items():
            line, deviation = row(model, argv, given.samples)
            deviations[model].append(abs(deviation))
            print(line, flush=True)
    for model, found in deviations.items() if given.rounds else ():
        print(f"\n{model}: off by {statistics.median(found):.0%} in the median, at most {max(found):.0%}")
    print(f"\n{stop_half_way(list(jobs.values())[-1], given.n_images)}")
    print(f"\nMeasured {machine['date']} on {machine['cores']} cores of {machine['cpu']}.")


if __name__ == "__main__":
    main()
