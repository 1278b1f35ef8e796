"""What checkpoints cost: the same images in about ten waves and in one.

Usage: python -m benchmarks.waves [--n_images 8000] [--rounds 3] [--waves 10]

The seconds are those of embedding, on the clock, as metadata.json has them: two waves run at once, so that
only the last tasks of the last wave leave a core idle.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.data import CACHE, FEED, make_model, make_shards
from benchmarks.report import describe_machine, warn_if_busy


def run(n_images: int, wave_s: float) -> tuple[int, float]:
    """Run the job; returns its waves and the seconds in which it embedded."""
    output = CACHE / "runs" / "waves"
    shutil.rmtree(output, ignore_errors=True)
    program = Path(sys.executable).parent / "spark-embed"
    command = [program, "--input_dir", make_shards(FEED, n_images), "--output_dir", output]
    command += ["--model_directory", make_model(FEED.model), "--wave_s", str(wave_s)]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    metadata = json.loads((output / "metadata.json").read_text())
    return metadata["this_run"]["n_waves"], metadata["timings_s"]["embed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n_images", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--waves", type=int, default=10)
    given = parser.parse_args()
    machine = describe_machine()
    warn_if_busy(machine)
    ratios = []
    print("| waves | seconds | waves | seconds | ratio |\n| --- | --- | --- | --- | --- |")
    for number in range(given.rounds):
        n_one, one_s = run(given.n_images, 1e6)
        n_many, many_s = run(given.n_images, one_s / given.waves)
        if number % 2:  # the machine's mood changes: the order does, too
            n_one, one_s = run(given.n_images, 1e6)
        ratios.append(many_s / one_s)
        print(f"| {n_one} | {one_s:.1f} | {n_many} | {many_s:.1f} | {ratios[-1]:.3f} |", flush=True)
    median = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
    print(f"\nMedian {median}, {given.n_images:,} images. {machine}")


if __name__ == "__main__":
    main()
