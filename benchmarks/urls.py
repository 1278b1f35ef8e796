"""The feed on urls against the feed on inline bytes: the same images, from a server that is slow to answer.

Usage: python -m benchmarks.urls [--model tiny] [--latency_s 0.05] [--n_images 2000] [--rounds 3]

The server runs on the same machine and takes its share of the cores. So two ratios are told: of images by
the clock, and of images by the seconds of CPU that the feed's own process took.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import time
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path

from spark_embed.inference.feed import FeedOptions, run_feed
from spark_embed.inference.fetch.references import DownloadPolicy, FetchPolicy, Reference
from spark_embed.models import Model, Recipe, load_model
from spark_embed.models.registry import EMBEDDED_MODEL
from spark_embed.schema import EMBEDDING

import benchmarks.bare_package  # noqa: F401  before spark_embed
from benchmarks.data import CACHE, FEED, make_model

N_DISTINCT = 100


def serve(images: list[bytes], latency_s: float, port: Connection) -> None:
    """Answer /NUMBER with that image, each after the latency; runs until it is killed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            while (await reader.readline()).strip():
                pass
            body = images[int(head.split()[1].lstrip(b"/")) % len(images)]
            await asyncio.sleep(latency_s)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            writer.write(body)
            await writer.drain()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def measure(references: list[Reference], model: Model, n_threads: int) -> tuple[float, float]:
    """Return images/s by the clock and by this process's CPU."""
    policy = FetchPolicy(download=DownloadPolicy(allow_private_addresses=True))
    options = FeedOptions(n_threads=n_threads, fetch=policy)
    started, cpu_started = time.perf_counter(), time.process_time()
    chunks = run_feed(((reference, None) for reference in references), model, options)
    n_good = sum(len(chunk.columns[EMBEDDING]) for chunk in chunks)
    if n_good < len(references):
        raise SystemExit(f"{n_good} vectors of {len(references)} images")
    return n_good / (time.perf_counter() - started), n_good / (time.process_time() - cpu_started)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="of benchmarks.data.VISION, or embedded")
    parser.add_argument("--latency_s", type=float, default=0.05)
    parser.add_argument("--n_images", type=int, default=2000)
    parser.add_argument("--n_threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=CACHE)
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    images = [FEED.image_bytes(number) for number in range(min(N_DISTINCT, options.n_images))]
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(
        target=serve, args=(images, options.latency_s, theirs), daemon=True
    )
    server.start()
    url = f"http://127.0.0.1:{ours.recv()}"
    source = EMBEDDED_MODEL if options.model == "embedded" else str(make_model(options.model, options.cache))
    model, _ = load_model(Recipe(source=source))
    inline = [Reference(data) for data in islice(cycle(images), options.n_images)]
    urls = [Reference(uri=f"{url}/{number}") for number in range(options.n_images)]
    measure(urls[:64], model, options.n_threads)  # imports, kernels
    rates = [
        (*measure(inline, model, options.n_threads), *measure(urls, model, options.n_threads))
        for _ in range(options.rounds)
    ]
    print("| inline images/s | urls images/s | ratio by the clock | ratio by CPU seconds |")
    print("| --- | --- | --- | --- |")
    rows = [(a, b, b / a, d / c) for a, c, b, d in rates]
    for row in [*rows, tuple(map(statistics.median, zip(*rows, strict=True)))]:
        print("| {:,.0f} | {:,.0f} | {:.2f} | {:.2f} |".format(*row))
    print("\nthe last line: medians")


if __name__ == "__main__":
    main()
