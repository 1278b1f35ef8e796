"""What the programs of the ladder share: the model, by the project's own loading, and its one resize.

So all steps have the same vectors, and differ in nothing but in what their programs say. Runs on executors.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark import Accumulator
from pyspark.sql.types import ArrayType, FloatType

from spark_embed.inference.decode import decode
from spark_embed.inference.task import task_cpus
from spark_embed.models import Model, Recipe, load_model
from spark_embed.models.registry import find_class
from spark_embed.schema import EMBEDDING

VECTOR = ArrayType(FloatType())


@dataclass(frozen=True)
class Work:
    """What a step's functions are given; travels to the executors.

    Attributes:
        float32: the recipe of the model in float32.
        fast: the recipe with the precision that the job has chosen.
        preprocessing: between RGB pixels and the model's input.
        loads: counts how often a model was loaded.
        batch_size: images in a forward pass, where they are not taken one by one.
    """

    float32: Recipe
    fast: Recipe
    preprocessing: Any
    loads: Accumulator[int]
    batch_size: int = 32

    def load(self) -> Model:
        """Load the model anew (slow)."""
        model: Model = find_class(self.float32.kind)(self.float32)
        self._loaded()
        return model

    def model(self, *, freeze: bool = True, fast: bool = False) -> Model:
        """Return the worker's model, which is loaded once, and with `freeze` out of the collector's way."""
        model, is_new = load_model(self.fast if fast else self.float32)
        if is_new:
            self._loaded()
        if is_new and freeze:
            gc.collect()
            gc.freeze()
        return model

    def prepare(self, data: Any) -> npt.NDArray[np.uint8]:
        """Decode and resize an image to the model's input: uint8 (3, height, width)."""
        pixels: npt.NDArray[np.uint8] = self.preprocessing.prepare(decode(data)).numpy()
        return pixels

    def from_floats(self, values: Any) -> npt.NDArray[np.uint8]:
        """Return the pixels (3, height, width) that travelled as numbers."""
        return np.asarray(values, dtype=np.uint8).reshape(3, *self.preprocessing.crop)

    def predict(self, model: Model, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Return the vectors of prepared images, float32 (n, dim), by one forward pass."""
        import torch

        vectors = model.predict([torch.from_numpy(image) for image in images]).columns[EMBEDDING]
        return np.asarray(vectors, dtype=np.float32)

    def in_batches(self, model: Model, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Do the same for as many as there are, `batch_size` at a time."""
        starts = range(0, len(images), self.batch_size)
        return np.concatenate([self.predict(model, images[at : at + self.batch_size]) for at in starts])

    def _loaded(self) -> None:
        import torch

        torch.set_num_threads(task_cpus() or 1)
        self.loads.add(1)


def as_lists(vectors: npt.NDArray[np.float32]) -> pa.ListArray:
    """Return vectors (n, dim) as an Arrow column of lists, without a copy."""
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.reshape(-1)))
