"""The two bare loops that the job is compared with: no Spark, no feed, no framework.

Usage: python -m benchmarks.loops {plain,tuned} INPUT_DIR OUTPUT_DIR MODEL_DIRECTORY [--dtype] [--workers]

Each is a whole program: N processes (one per core, one thread each) share the row groups of the shards
and each writes a parquet file with keys and vectors. `plain` is what one writes first: Pillow and
transformers in float32. `tuned` has the same parts as the job: pyarrow, libjpeg-turbo, torch's uint8
resize, normalisation per batch, the job's precision.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

from spark_embed.inference.decode import open_image
from spark_embed.inference.malloc import keep_freed_memory
from spark_embed.models.device import resolve_dtype
from spark_embed.models.vision.preprocess import Preprocessing
from spark_embed.models.vision.processor import read_preprocessing

Unit = tuple[Path, int]
"""A shard and the number of one of its row groups."""

Embed = Callable[[Sequence[memoryview]], np.ndarray]
"""Encoded images -> float32 (n, dim), each row of length 1."""


@cache
def make_prepare(model_directory: Path) -> Callable[[bytes], np.ndarray]:
    """Return encoded image -> float32 (3, height, width): Pillow and numpy, equal to CLIP's own processor."""
    processor = load_processor(model_directory)
    edge, crop = processor.size["shortest_edge"], processor.crop_size["height"]
    mean, std = (np.array(values, dtype=np.float32) for values in (processor.image_mean, processor.image_std))

    def prepare(data: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        shortest = min(image.size)
        resized = image.resize([int(edge * side / shortest) for side in image.size], Image.Resampling.BICUBIC)
        left, top = ((side - crop) // 2 for side in resized.size)
        pixels = np.asarray(resized.crop((left, top, left + crop, top + crop)), dtype=np.float32)
        return ((pixels / 255 - mean) / std).transpose(2, 0, 1)

    return prepare


def make_plain_loop(model_directory: Path, dtype: str) -> Embed:
    """Return Pillow's decode and resize, numpy's arithmetic, and transformers' network."""
    network, prepare = load_network(model_directory, dtype), make_prepare(model_directory)
    return lambda images: predict(network, torch.from_numpy(np.stack([prepare(data) for data in images])))


def make_tuned_loop(model_directory: Path, dtype: str) -> Embed:
    """Return the job's decode and prepare, and transformers' network as the job lays it out."""
    network = load_network(model_directory, dtype).to(memory_format=torch.channels_last)
    preprocessing = read_preprocessing(load_processor(model_directory))
    assert isinstance(preprocessing, Preprocessing)

    def embed(images: Sequence[memoryview]) -> np.ndarray:
        batch = torch.stack([preprocessing.prepare(open_image(data).decode()) for data in images])
        batch = batch.to(memory_format=torch.channels_last)
        return predict(network, preprocessing.normalize(batch, network.dtype))

    return embed


LOOPS = {"plain": make_plain_loop, "tuned": make_tuned_loop}


def embed_shards(units: Sequence[Unit], embed: Embed, output: Path, batch_size: int) -> None:
    """Write the keys and vectors of some row groups to one parquet file, batch by batch."""
    writer: pq.ParquetWriter | None = None
    for path, group in units:
        table = pq.ParquetFile(path).read_row_group(group, columns=["key", "jpg"])
        keys, vectors = table["key"], []
        for batch in _batches(table["jpg"], batch_size):
            vectors.append(embed(batch))
        embedded = pa.table({"key": keys, "embedding": _list_array(np.concatenate(vectors))})
        writer = writer or pq.ParquetWriter(output, embedded.schema, use_dictionary=["key"])
        writer.write_table(embedded)
    if writer:
        writer.close()


def list_units(input_dir: Path) -> list[Unit]:
    """Return all row groups, in order."""
    shards = sorted(input_dir.glob("*.parquet"))
    return [(path, group) for path in shards for group in range(pq.read_metadata(path).num_row_groups)]


def _run_worker(number: int, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    if options.loop == "tuned":
        keep_freed_memory()
    embed = LOOPS[options.loop](options.model_directory, options.dtype)
    units = list_units(options.input_dir)[number :: options.workers]
    embed_shards(units, embed, options.output_dir / f"{number:05d}.parquet", options.batch_size)


def _batches(column: pa.ChunkedArray, batch_size: int) -> Iterator[list[memoryview]]:
    """Yield the encoded images in batches, as views into the Arrow buffers."""
    images = (memoryview(scalar.as_buffer()).cast("B") for chunk in column.chunks for scalar in chunk)
    while batch := list(islice(images, batch_size)):
        yield batch


def _list_array(vectors: np.ndarray) -> pa.ListArray:
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.reshape(-1)))


def predict(network: torch.nn.Module, pixel_values: torch.Tensor) -> np.ndarray:
    """Run one forward pass; returns float32 (n, dim), each row of length 1."""
    with torch.inference_mode():
        vectors = network(pixel_values=pixel_values.to(network.dtype)).image_embeds.float()
    return torch.nn.functional.normalize(vectors).numpy()


def load_network(model_directory: Path, dtype: str) -> torch.nn.Module:
    """Load the vision tower of a CLIP folder; "auto" becomes what the job would choose on this CPU."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    network = CLIPVisionModelWithProjection.from_pretrained(model_directory)
    return network.to(getattr(torch, resolve_dtype(dtype, "cpu"))).eval()


def load_processor(model_directory: Path) -> Any:
    """Load the image processor of a folder, its Pillow backend."""
    return AutoImageProcessor.from_pretrained(model_directory, backend="pil")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("loop", choices=LOOPS)
    for name in ("input_dir", "output_dir", "model_directory"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True)
    # Forked, so that the imports above are paid once, as the job's worker daemon pays them.
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_run_worker, args=(number, options)) for number in range(options.workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
