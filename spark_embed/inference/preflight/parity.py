"""The run's own vectors against plain transformers; knows no Spark.

The reference for an image is: Pillow with the policy of decode.py, the model's own transformers
processor (its PIL backend where there is one), the network in float32.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from spark_embed.errors import ImageError
from spark_embed.inference.decode import Buffer, open_image, open_with_pillow
from spark_embed.models import Prediction, Prepared
from spark_embed.models.vision.image_embedder import ImageEmbedder

Vectors = npt.NDArray[np.float32]


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


@dataclass(frozen=True)
class Sampled:
    """One image as the run prepares it and as plain transformers does; not the image itself.

    Attributes:
        pixel_difference: largest difference of a prepared pixel, in grey levels; None without a fast path.
        prepare_s: seconds that the run takes to decode and prepare it, on one thread.
    """

    prepared: Prepared
    reference: dict[str, torch.Tensor]
    pixel_difference: float | None
    prepare_s: float


def prepare_sample(
    model: ImageEmbedder, images: Iterable[Buffer], max_pixels: int, errors: list[ImageError] | None = None
) -> Iterator[Sampled]:
    """Yield the encoded images that can be compared, prepared in both ways; decodes one at a time.

    Args:
        model: the model.
        images: encoded.
        max_pixels: of an image.
        errors: is given why images were left out.
    """
    for data in images:
        try:
            started = time.perf_counter()
            prepared = model.prepare(open_image(data, max_pixels).decode())
            prepare_s = time.perf_counter() - started
            reference = model.process(Image.fromarray(open_with_pillow(data).decode()))
            yield Sampled(prepared, reference, _pixel_difference(model, prepared, reference), prepare_s)
        except ImageError as exc:  # it will be an error row; there is nothing to compare
            if errors is not None:
                errors.append(exc)


def measure_parity(model: ImageEmbedder, sample: Sequence[Sampled]) -> Parity:
    """Compare the vectors of `model` with the reference's. Takes a second copy of the network."""
    if not sample:
        return Parity(0, None, None)
    differences = [item.pixel_difference for item in sample if item.pixel_difference is not None]
    prediction = model.predict([item.prepared for item in sample])
    cosines = _cosines(prediction, _reference_vectors(model, [item.reference for item in sample]))
    return Parity(
        n_images=len(cosines),
        min_cosine=float(cosines.min()) if len(cosines) else None,
        max_pixel_difference=max(differences, default=None),
    )


def _pixel_difference(
    model: ImageEmbedder, prepared: Prepared, reference: dict[str, torch.Tensor]
) -> float | None:
    if model.preprocessing is None:
        return None
    expected = model.preprocessing.grey_levels(reference["pixel_values"])[0]
    return round(float((prepared.float() - expected).abs().max()), 3)


def _reference_vectors(model: ImageEmbedder, inputs: Sequence[dict[str, torch.Tensor]]) -> Vectors:
    reference = model
    if model.recipe.dtype != "float32" or model.n_folded or model.recipe.compile_rows:
        reference = ImageEmbedder(replace(model.recipe, dtype="float32", compile_rows=None), fold=False)
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
