"""The run's own vectors against those of the model's own library; knows no Spark and no kind of model.

The reference for an image is: Pillow with the policy of decode/, the model's own processor and its network in
float32 (`spark_embed.models.ReferenceModel`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from spark_embed.errors import RowError
from spark_embed.inference.decode import Buffer, OpenedImage, open_image, open_with_pillow
from spark_embed.models import Inputs, Model, Prediction, Prepared

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
        unmeasured: why nothing is compared, where the model has nothing to be compared with.
    """

    n_images: int = 0
    min_cosine: float | None = None
    max_pixel_difference: float | None = None
    unmeasured: str | None = None


NO_REFERENCE = Parity(unmeasured="this kind of model has no reference")


@dataclass(frozen=True)
class Sampled:
    """One row as the run prepares it and, of a model with a reference, as that does; not the image itself.

    Attributes:
        pixel_difference: largest difference of a prepared pixel, in grey levels; None where there is none.
        prepare_s: seconds that the run takes to decode and prepare it, on one thread.
        scaled: the same by decoding it at a smaller scale; None where it is not that large.
    """

    prepared: Prepared
    reference: Any
    pixel_difference: float | None
    prepare_s: float
    scaled: Sampled | None = None


def prepare_sample(
    model: Model,
    images: Iterable[Buffer],
    max_pixels: int,
    errors: list[RowError] | None = None,
    min_edge: int | None = None,
) -> Iterator[Sampled]:
    """Yield the encoded images that can be compared, prepared in both ways; decodes one at a time.

    Args:
        model: one with a reference.
        images: encoded.
        max_pixels: of an image.
        errors: is given why images were left out.
        min_edge: prepare large JPEGs from a smaller scale as well; see `open_image`.
    """
    plain = model.reference
    if plain is None:
        return
    for data in images:
        try:
            prepared, prepare_s = _prepare(model, open_image(data, max_pixels))
            reference = plain.prepare(open_with_pillow(data).decode())
            item = Sampled(prepared, reference, plain.difference(prepared, reference), prepare_s)
            if (opened := open_image(data, max_pixels, min_edge=min_edge)).scale > 1:
                prepared, prepare_s = _prepare(model, opened)
                scaled = Sampled(prepared, reference, plain.difference(prepared, reference), prepare_s)
                item = replace(item, scaled=scaled)
            yield item
        except RowError as exc:  # it will be an error row; there is nothing to compare
            if errors is not None:
                errors.append(exc)


def _prepare(model: Model, opened: OpenedImage) -> tuple[Prepared, float]:
    """Return what the model makes of an image, and the seconds that this takes."""
    started = time.perf_counter()
    prepared = model.prepare(Inputs(opened.decode(), box=opened.box))
    return prepared, time.perf_counter() - started


def predict_references(model: Model, sample: Sequence[Sampled]) -> Vectors:
    """Return the reference's vectors of the sample, which are the same in any precision of `model`.

    Takes a second copy of the network.
    """
    if model.reference is None or not sample:
        return np.empty((0, 0), dtype=np.float32)
    return model.reference.predict([item.reference for item in sample])


def measure_parity(model: Model, sample: Sequence[Sampled], references: Vectors | None = None) -> Parity:
    """Compare the vectors of `model` with the reference's: with those given, or predicted here."""
    if model.reference is None:
        return NO_REFERENCE
    if not sample:
        return Parity()
    if references is None:
        references = predict_references(model, sample)
    differences = [item.pixel_difference for item in sample if item.pixel_difference is not None]
    prediction = model.predict([item.prepared for item in sample])
    cosines = _cosines(prediction, model.reference.column, references)
    return Parity(
        n_images=len(cosines),
        min_cosine=float(cosines.min()) if len(cosines) else None,
        max_pixel_difference=max(differences, default=None),
    )


def _cosines(prediction: Prediction, column: str, references: Vectors) -> npt.NDArray[np.float64]:
    """Return the cosine of each image that has a reference vector: 0 where the run's own is unusable.

    So a precision that overflows where float32 does not is seen, and not taken for a bad image.
    """
    vectors = np.array(prediction.columns[column], dtype=np.float64)
    for failures in prediction.failures.values():
        vectors[list(failures)] = 0
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(references.astype(np.float64), axis=1)
    usable = np.isfinite(references).all(axis=1) & references.any(axis=1)
    cosines: npt.NDArray[np.float64] = np.sum(vectors * references, axis=1) / np.where(
        lengths > 0, lengths, 1
    )
    return cosines[usable]
