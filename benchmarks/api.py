"""A run that asks a remote API, against what its server could answer: requests/s by the server's own clock.

Usage: python -m benchmarks.api [--latency_s 0.3] [--at_once 64] [--n_rows 8000] [--requests_per_s 10]

Two runs of the command on this machine. One without a limit, against a server that answers so many requests
at once: its speed as a part of `at_once / latency_s`, without the first and the last second. And one with a
limit, over a minute: how many requests there were, and how many in the fullest second. The server takes its
share of the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from aiohttp import web

from benchmarks.data import CACHE, FEED
from benchmarks.measure import environment
from benchmarks.report import describe_machine, warn_if_busy

N_SHARDS = 8


def serve(latency_s: float, at_once: int, pipe: Connection) -> None:
    """Answer every request after the latency, `at_once` at a time; tells when each came at the end."""
    sent: list[float] = []
    turns = asyncio.Semaphore(at_once)
    choice = {"message": {"content": "a photo of something"}}
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    answer = json.dumps({"model": "m-1", "choices": [choice], "usage": usage})

    async def chat(request: web.Request) -> web.Response:
        sent.append(time.monotonic())
        await request.read()
        async with turns:
            await asyncio.sleep(latency_s)
        return web.Response(text=answer, content_type="application/json")

    async def run() -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        pipe.send(runner.addresses[0][1])
        await asyncio.to_thread(pipe.recv)
        pipe.send(sent)

    asyncio.run(run())


def write_images(folder: Path, n_rows: int) -> None:
    """Write shards of images of some 30 KB, each with a tail that makes it another."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    images = [FEED.image_bytes(number)[:30_000] for number in range(20)]
    for shard in range(N_SHARDS):
        rows = range(shard * n_rows // N_SHARDS, (shard + 1) * n_rows // N_SHARDS)
        table = pa.table({"jpg": [images[row % len(images)] + row.to_bytes(8, "big") for row in rows]})
        pq.write_table(table, folder / f"{shard}.parquet", row_group_size=250)


def measure(options: argparse.Namespace, n_rows: int, **api: object) -> list[float]:
    """Run the command; returns when each request reached the server, in seconds."""
    ours, theirs = multiprocessing.Pipe()
    args = (options.latency_s, options.at_once, theirs)
    server = multiprocessing.get_context("fork").Process(target=serve, args=args, daemon=True)
    server.start()
    folder = options.cache / "api"
    write_images(folder / "in", n_rows)
    described = {"provider": "openai_chat", "base_url": f"http://127.0.0.1:{ours.recv()}/v1", "model": "m"}
    described |= {"prompt": "what is it?", "columns": {"text": "choices[0].message.content"}, **api}
    (folder / "api.yaml").write_text(yaml.safe_dump(described))
    places = ["--input_dir", folder / "in", "--output_dir", folder / "out", "--overwrite"]
    words = [Path(sys.executable).parent / "spark-embed", *places, "--model_directory", folder / "api.yaml"]
    subprocess.run([str(word) for word in words], check=True, env=environment())
    ours.send(None)
    sent: list[float] = ours.recv()
    server.join()
    metadata = json.loads((folder / "out/metadata.json").read_text())
    if metadata["counts"]["embedded"] != n_rows:
        raise SystemExit(f"{metadata['counts']}: not every row has an answer")
    shutil.rmtree(folder)
    return sorted(sent)


def most_in_a_second(sent: list[float]) -> int:
    start = most = 0
    for end, at in enumerate(sent):
        while sent[start] <= at - 1:
            start += 1
        most = max(most, end - start + 1)
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency_s", type=float, default=0.3)
    parser.add_argument("--at_once", type=int, default=64)
    parser.add_argument("--n_rows", type=int, default=8000)
    parser.add_argument("--concurrency", type=int, default=48, help="of each task")
    parser.add_argument("--requests_per_s", type=float, default=10)
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    machine = describe_machine()
    warn_if_busy(machine)

    sent = measure(options, options.n_rows, concurrency=options.concurrency)[1:]  # without preflight's
    steady = [at for at in sent if sent[0] + 1 < at < sent[-1] - 1]
    rate, most = (len(steady) - 1) / (steady[-1] - steady[0]), options.at_once / options.latency_s
    whole = len(sent) / (sent[-1] + options.latency_s - sent[0])
    print(f"{rate:.1f} requests/s of {most:.1f}: {rate / most:.3f}; with both ends {whole / most:.3f}")

    limit = options.requests_per_s
    sent = measure(options, round(65 * limit), concurrency=16, requests_per_s=limit)[1:]
    minute = sum(sent[0] + 2 <= at < sent[0] + 62 for at in sent)
    print(
        f"limit {limit:g}/s: {minute} requests in a minute ({minute / 60 / limit - 1:+.1%}), "
        f"{most_in_a_second(sent)} in the fullest second; load before: {machine['load_before']}"
    )


if __name__ == "__main__":
    main()
