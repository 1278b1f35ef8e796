"""The run's own vectors against plain transformers; knows no Spark.

The reference for an image is: Pillow with the policy of decode.py, the model's own transformers
processor (its PIL backend where there is one), the network in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from spark_embed.decode import Buffer, open_image, open_with_pillow
from spark_embed.errors import ImageError
from spark_embed.models import Prediction
from spark_embed.models.image_embedder import ImageEmbedder

Vectors = npt.NDArray[np.float32]

# transformers resizes a whole image before it crops: at 6000 x 2 that takes gigabytes.
MAX_ASPECT_RATIO = 20


@dataclass(frozen=True)
class Parity:
    """How the run's vectors compare with plain transformers on some of its own images.

    Attributes:
        n_images: images compared; broken and extremely narrow ones cannot be, nor those for which plain
            transformers has no usable vector either.
        min_cosine: smallest cosine between a vector of the run and its reference; None for no image.
        max_pixel_difference: largest difference of a prepared pixel, in grey levels (0 to 255); None
            where the model's own processor prepares the images, so that nothing can differ.
    """

    n_images: int
    min_cosine: float | None
    max_pixel_difference: float | None


def measure_parity(model: ImageEmbedder, images: Sequence[Buffer], max_pixels: int) -> Parity:
    """Compare `model` with the reference on encoded images. Takes a second copy of the network."""
    decoded = []
    for data in images:
        try:
            pixels = open_image(data, max_pixels).decode()
            if max(pixels.shape[:2]) <= MAX_ASPECT_RATIO * min(pixels.shape[:2]):
                decoded.append((pixels, open_with_pillow(data).decode()))
        except ImageError:
            continue  # it will be an error row; there is nothing to compare
    if not decoded:
        return Parity(0, None, None)
    prepared = [model.prepare(pixels) for pixels, _ in decoded]
    inputs = [model.process(Image.fromarray(reference)) for _, reference in decoded]
    difference = None
    if model.preprocessing is not None:
        expected = model.preprocessing.grey_levels(torch.stack([item["pixel_values"][0] for item in inputs]))
        difference = round(float((torch.stack(prepared).float() - expected).abs().max()), 3)
    cosines = _cosines(model.predict(prepared), _reference_vectors(model, inputs))
    return Parity(len(cosines), float(cosines.min()) if len(cosines) else None, difference)


def _reference_vectors(model: ImageEmbedder, inputs: Sequence[dict[str, torch.Tensor]]) -> Vectors:
    reference = model
    if model.recipe.dtype != "float32":
        reference = ImageEmbedder(replace(model.recipe, dtype="float32"))
    with torch.inference_mode():
        return np.concatenate([reference.forward(item).cpu().numpy() for item in inputs])


def _cosines(prediction: Prediction, references: Vectors) -> npt.NDArray[np.float64]:
    """Return the cosine of each image that has a reference vector: 0 where the run's own is unusable.

    So a precision that overflows where float32 does not is seen, and not taken for a bad image.
    """
    vectors = prediction.embedding.astype(np.float64)
    vectors[list(prediction.failures)] = 0
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(references.astype(np.float64), axis=1)
    usable = np.isfinite(references).all(axis=1) & references.any(axis=1)
    cosines: npt.NDArray[np.float64] = np.sum(vectors * references, axis=1) / np.where(
        lengths > 0, lengths, 1
    )
    return cosines[usable]
