"""What S3 costs: the same images from bucket to bucket, and from folder to folder.

Usage: python -m benchmarks.s3 [--sizes 1000,4000] [--rounds 3]

The store is a real server on the loopback (make s3-server), whose work takes part of the same cores;
its answers take no way. So this shows what our requests cost, not what a network does. Jars are in the cache
after the first run, which is not counted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3

from spark_embed.storage import read_json
from tools.make_go_program import S3_SERVER

from benchmarks.data import CACHE, FEED, make_model, make_shards
from benchmarks.measure import Line, Spread, environment
from benchmarks.report import describe_machine, warn_if_busy

_KEY, _SECRET, _REGION, _BUCKET = "benchmark", "not-a-secret", "eu-west-1", "benchmark"
_START_S = 20
WHERE = ("disk", "s3")


@contextmanager
def s3_server() -> Iterator[None]:
    """Run a server with an empty bucket; the environment of this process leads to it."""
    folder = CACHE / "s3"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    keys = {"ROOT_ACCESS_KEY": _KEY, "ROOT_SECRET_KEY": _SECRET}
    options = ["--port", address, "--region", _REGION, "--quiet", "--health", "/health"]
    server = subprocess.Popen(
        [S3_SERVER.path, *options, "posix", folder], env=keys, stderr=subprocess.DEVNULL
    )
    try:
        _await(f"http://{address}/health")
        os.environ |= {
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_REGION": _REGION,
            "AWS_ENDPOINT_URL_S3": f"http://{address}",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        boto3.client("s3", region_name=_REGION).create_bucket(
            Bucket=_BUCKET, CreateBucketConfiguration={"LocationConstraint": _REGION}
        )
        yield
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _await(url: str) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(url, timeout=1):
            return
        time.sleep(0.05)
    raise SystemExit(f"the S3 server at {S3_SERVER.path} does not answer; make s3-server builds it")


def upload(n_images: int) -> str:
    """Put a data set into the bucket; returns its URI."""
    client = boto3.client("s3", region_name=_REGION)
    for path in sorted(make_shards(FEED, n_images).glob("*.parquet")):
        client.upload_file(str(path), _BUCKET, f"in-{n_images}/{path.name}")
    return f"s3://{_BUCKET}/in-{n_images}"


def run(where: str, n_images: int) -> float:
    """Return the seconds of one whole process."""
    if where == "s3":
        paths: tuple[str | Path, str | Path] = (
            f"s3://{_BUCKET}/in-{n_images}",
            f"s3://{_BUCKET}/out-{time.time_ns()}",
        )
    else:
        paths = make_shards(FEED, n_images), CACHE / "runs" / "disk"
        shutil.rmtree(paths[1], ignore_errors=True)
    program = Path(sys.executable).parent / "spark-embed"
    command = [program, "--input_dir", paths[0], "--output_dir", paths[1]]
    command += ["--model_directory", make_model(FEED.model)]
    started = time.perf_counter()
    done = subprocess.run(list(map(str, command)), env=environment(), capture_output=True, text=True)
    seconds = time.perf_counter() - started
    counts = (read_json(f"{paths[1]}/metadata.json") or {}).get("counts", {})
    if done.returncode or counts.get("embedded") != n_images:
        raise SystemExit(f"{where}: {counts}, exit code {done.returncode}\n{done.stderr[-2000:]}")
    print(f"  {where:6} {n_images:7,} images {seconds:8.2f} s", file=sys.stderr, flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1000,4000")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    small, large = map(int, given.sizes.split(","))
    machine = describe_machine()
    warn_if_busy(machine)
    lines: dict[str, list[Line]] = {where: [] for where in WHERE}
    with s3_server():
        for n_images in (small, large):
            upload(n_images)
        for where in WHERE:
            run(where, small)  # not counted: jars, page cache
        for number in range(given.rounds):
            order = WHERE if number % 2 else WHERE[::-1]
            seconds = {(where, size): run(where, size) for size in (small, large) for where in order}
            for where in WHERE:
                lines[where].append(Line((small, large), (seconds[where, small], seconds[where, large])))
    print("| from and to | images/s | fixed s | small run s |\n| --- | --- | --- | --- |")
    for where, found in lines.items():
        columns = [[line.images_per_s for line in found], [line.fixed_s for line in found]]
        columns.append([line.seconds[0] for line in found])
        print(f"| {where} | " + " | ".join(Spread.of(column).text(1) for column in columns) + " |")
    pairs = list(zip(lines["s3"], lines["disk"], strict=True))
    rate = Spread.of([s3.images_per_s / disk.images_per_s for s3, disk in pairs])
    more_s = Spread.of([s3.seconds[0] - disk.seconds[0] for s3, disk in pairs])
    print(f"\ns3 to disk: rate {rate.text(2)}, {more_s.text(1)} s more for {small:,} images. {machine}")


if __name__ == "__main__":
    main()
