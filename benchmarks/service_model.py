"""What all services of the comparison serve, and the loop that has no service: the job's decode and model.

Usage: python -m benchmarks.service_model MODEL_DIRECTORY PHOTOS BATCH_SIZE SECONDS -> one line of JSON

So they differ in serving alone: not in the decoder, the resize, the precision or the network.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from spark_embed.inference.decode import open_image
from spark_embed.inference.malloc import keep_freed_memory
from spark_embed.models import Inputs, Prepared, Recipe, load_model


class ServedModel:
    """CLIP as the job runs it, in the precision that it chooses here."""

    def __init__(self, model_directory: str) -> None:
        keep_freed_memory()
        self._model, _ = load_model(Recipe(model_directory, device="cpu"))

    def prepare(self, data: bytes) -> Prepared:
        """Return what the network takes of an encoded image."""
        return self._model.prepare(Inputs(open_image(data).decode()))

    def predict(self, batch: Sequence[Prepared]) -> np.ndarray:
        """Return the vectors of a batch, float32 (n, dim)."""
        return np.asarray(self._model.predict(list(batch)).columns["embedding"])


def measure(step: Callable[[], object], seconds: float) -> list[float]:
    """Return the seconds of each call, until so many have passed."""
    spent: list[float] = []
    until = time.perf_counter() + seconds
    while (started := time.perf_counter()) < until:
        step()
        spent.append(time.perf_counter() - started)
    return spent


def serial_step(model: ServedModel, photos: Sequence[bytes], batch_size: int) -> Callable[[], object]:
    """Return what decodes a batch, one image after the other, and predicts it."""
    images = cycle(photos)
    return lambda: model.predict([model.prepare(image) for image in islice(images, batch_size)])


def ahead_step(
    model: ServedModel, photos: Sequence[bytes], batch_size: int, threads: ThreadPoolExecutor
) -> Callable[[], object]:
    """Return what predicts a batch while threads decode the next one."""
    images = cycle(photos)
    pending = [threads.submit(model.prepare, image) for image in islice(images, batch_size)]

    def step() -> None:
        nonlocal pending
        batch, pending = (
            pending,
            [threads.submit(model.prepare, image) for image in islice(images, batch_size)],
        )
        model.predict([one.result() for one in batch])

    return step


def main() -> None:
    model_directory, folder, batch_size, seconds = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
    photos = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    model = ServedModel(model_directory)
    prepared = [model.prepare(photo) for photo in photos[:batch_size]]
    measure(lambda: model.predict(prepared), 2)  # not counted
    found: dict[str, float] = {}
    with ThreadPoolExecutor(2) as threads:
        for name, step in (
            ("serial", serial_step(model, photos, batch_size)),
            ("ahead", ahead_step(model, photos, batch_size, threads)),
        ):
            cpu_before_s = time.process_time()
            spent = measure(step, seconds)
            n_images = batch_size * len(spent)
            found[name] = n_images / sum(spent)
            found[f"{name}_cpu_s"] = (time.process_time() - cpu_before_s) / n_images
    found["forward_s"] = float(np.median(measure(lambda: model.predict(prepared), seconds / 2)))
    found["call_s"] = float(np.median(measure(serial_step(model, photos, 1), seconds / 2)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
