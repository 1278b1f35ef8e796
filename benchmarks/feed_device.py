"""The feed alone, from JPEG bytes to vectors, on whatever device is here: CUDA, MPS or CPU; no Spark.

Usage: python -m benchmarks.feed_device [--models vit-b-32,vit-b-16,vit-l-14] [--input_dir SHARDS] ...

For each model: images/s of the feed; the device's own limit (forward passes over one batch that is there
already); the CPU's own limit (decode and prepare alone, on as many threads); the smallest cosine between
the feed's vectors and float32 on the CPU. On CUDA also what happens when a batch does not fit.
Needs torch, transformers, safetensors, Pillow, pyarrow and simplejpeg; scikit-image and scikit-learn only
to generate images, when there is no --input_dir.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from spark_embed.inference.decode import open_image
from spark_embed.inference.feed import FeedOptions, run_feed
from spark_embed.inference.fetch.references import Reference
from spark_embed.models import Inputs, Recipe, load_model
from spark_embed.models.vision.image_embedder import ImageEmbedder
from spark_embed.schema import EMBEDDING

import benchmarks.bare_package  # noqa: F401  before spark_embed
from benchmarks.data import CACHE, FEED, VISION, make_model, make_shards

N_PARITY_IMAGES = 64


@dataclass(frozen=True)
class Figures:
    """One model on one device; rates are images/s."""

    model: str
    device: str
    dtype: str
    batch_size: int
    n_threads: int
    feed: float
    device_limit: float
    cpu_limit: float
    min_cosine: float
    back_off: str | None

    @property
    def share(self) -> float:
        """What the feed reaches of the smaller limit."""
        return self.feed / min(self.device_limit, self.cpu_limit)


def measure_model(name: str, images: list[bytes], options: argparse.Namespace) -> Figures:
    """Measure one model of `VISION` on the device."""
    source = str(make_model(name, options.cache))
    model, _ = load_model(Recipe(source=source, device=options.device))
    feed_options = FeedOptions(batch_size=options.batch_size, n_threads=options.n_threads)
    return Figures(
        model=name,
        device=describe_device(model.recipe.device),
        dtype=model.recipe.dtype,
        batch_size=options.batch_size,
        n_threads=options.n_threads,
        feed=rate(feed_steps(model, images, feed_options), options.seconds),
        device_limit=rate(device_steps(model, images[0], options.batch_size), options.seconds),
        cpu_limit=rate(cpu_steps(model, images, feed_options), options.seconds),
        min_cosine=compare_with_float32(model, source, images[:N_PARITY_IMAGES], feed_options),
        back_off=measure_back_off(model, images) if model.recipe.device.startswith("cuda") else None,
    )


def rate(steps: Iterator[int], seconds: float) -> float:
    """Return the images/s of steps that each say how many images they were; the first quarter is warm-up."""
    started = time.perf_counter()
    while time.perf_counter() - started < seconds / 4:
        next(steps)
    n_images, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        n_images += next(steps)
    elapsed = time.perf_counter() - started
    steps.close()
    return n_images / elapsed


def feed_steps(model: ImageEmbedder, images: list[bytes], options: FeedOptions) -> Iterator[int]:
    """Run the feed over the images, again and again: one batch a step."""
    outcomes = run_feed(((Reference(data), None) for data in cycle(images)), model, options)
    try:
        for chunk in outcomes:
            yield len(chunk.columns[EMBEDDING])
    finally:
        outcomes.close()


def device_steps(model: ImageEmbedder, image: bytes, batch_size: int) -> Iterator[int]:
    """Run forward passes over one batch of model inputs that lies on the device."""
    device = torch.device(model.recipe.device)
    prepared = model.prepare(Inputs(open_image(image).decode()))
    batch = torch.stack([prepared] * batch_size).to(device, memory_format=torch.channels_last)
    pixel_values = model.network.preprocessing.normalize(batch, getattr(torch, model.recipe.dtype))
    wait = waiter(device)
    while True:
        with torch.inference_mode():
            for _ in range(4):  # enough to keep the device's queue filled
                model.network.forward({"pixel_values": pixel_values})
            wait()
        yield 4 * batch_size


def cpu_steps(model: ImageEmbedder, images: list[bytes], options: FeedOptions) -> Iterator[int]:
    """Decode and prepare alone, on the feed's number of threads."""
    source = cycle(images)
    with ThreadPoolExecutor(options.n_threads) as pool:
        while True:
            batch = list(islice(source, options.batch_size))
            for _ in pool.map(lambda data: model.prepare(Inputs(open_image(data).decode())), batch):
                pass
            yield len(batch)


def waiter(device: torch.device) -> Callable[[], None]:
    """Return what waits until the device has done all its work."""
    waiters = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}
    return waiters.get(device.type, lambda: None)


def embed(model: ImageEmbedder, images: list[bytes], options: FeedOptions) -> np.ndarray:
    """Return the feed's vectors of all images."""
    chunks = run_feed(((Reference(data), None) for data in images), model, options)
    return np.concatenate([chunk.columns[EMBEDDING] for chunk in chunks])


def compare_with_float32(
    model: ImageEmbedder, source: str, images: list[bytes], options: FeedOptions
) -> float:
    """Return the smallest cosine between the feed's vectors and those of float32 on the CPU."""
    reference = ImageEmbedder(Recipe(source=source, device="cpu", dtype="float32"))
    prepared = [reference.prepare(Inputs(open_image(data).decode())) for data in images]
    expected = reference.predict(prepared).columns[EMBEDDING]
    return float(np.sum(embed(model, images, options) * expected, axis=1).min())


def measure_back_off(model: ImageEmbedder, images: list[bytes], batch_size: int = 8192) -> str:
    """Give the feed a batch that cannot fit into what it may use of the device, and say what came of it."""
    torch.cuda.empty_cache()
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    used = torch.cuda.memory_reserved()
    allowed = min(used + (2 << 30), used + free_bytes)
    torch.cuda.set_per_process_memory_fraction(allowed / total_bytes)
    try:
        options = FeedOptions(batch_size=batch_size, n_threads=count_cores())
        vectors = embed(model, list(islice(cycle(images), batch_size + 100)), options)
        return f"{len(vectors)} vectors of {batch_size + 100} images"
    except torch.OutOfMemoryError as exc:
        return f"failed: {str(exc).splitlines()[0][:120]}"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def describe_device(device: str) -> str:
    """Return the card's name, or the device's."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def load_images(options: argparse.Namespace) -> list[bytes]:
    """Return the encoded images of --input_dir, or generated ones, at most --n_images."""
    folder = options.input_dir or make_shards(FEED, FEED.rows_per_shard, options.cache)
    images: list[bytes] = []
    for path in sorted(Path(folder).glob("*.parquet")):
        images += [data for data in pq.read_table(path, columns=["jpg"])["jpg"].to_pylist() if data]
    return images[: options.n_images]


def table(figures: list[Figures], n_cores: int) -> str:
    """Return the figures as Markdown."""
    first = figures[0]
    lines = [
        f"{first.device}, {n_cores} cores, {first.n_threads} decode threads, torch {torch.__version__}; "
        "images/s:",
        "",
        "| model | dtype | batch | feed | device's limit | CPU's limit | feed of the smaller | min cosine |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in figures:
        lines.append(
            f"| {one.model} | {one.dtype} | {one.batch_size} | {one.feed:,.0f} | {one.device_limit:,.0f} "
            f"| {one.cpu_limit:,.0f} | {one.share:.2f} | {one.min_cosine:.6f} |"
        )
    lines += [f"\nBatch that does not fit, {one.model}: {one.back_off}" for one in figures if one.back_off]
    return "\n".join(lines)


def count_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="vit-b-32,vit-b-16,vit-l-14", help=f"of {', '.join(VISION)}")
    parser.add_argument("--input_dir", help="parquet shards with a jpg column; default: generated images")
    parser.add_argument("--n_images", type=int, default=1000, help="kept in memory, and repeated")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch_size", type=int, help="default: 256 on a GPU, 32 on a CPU")
    parser.add_argument("--n_threads", type=int, default=count_cores())
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement, after its warm-up")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    if options.batch_size is None:
        has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
        options.batch_size = 256 if has_gpu and options.device != "cpu" else 32
    return options


def main() -> None:
    options = parse_options()
    images = load_images(options)
    figures = [measure_model(name, images, options) for name in options.models.split(",")]
    print(table(figures, count_cores()))
    if options.json:
        rows = [{**asdict(one), "share": one.share, "n_cores": count_cores()} for one in figures]
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    for thread in threading.enumerate():  # an interpreter that ends under a busy decode thread may abort
        if thread.daemon:
            thread.join(timeout=5)
    if "pyspark" in sys.modules:
        raise SystemExit("pyspark was imported: the feed must not need it")


if __name__ == "__main__":
    main()
