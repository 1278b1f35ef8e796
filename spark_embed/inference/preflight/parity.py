"""The run's own results against those of the model's own library; knows no Spark and no kind of model.

The reference for an image is: Pillow with the policy of decode/, the model's own processor and its network in
float32 (`spark_embed.models.ReferenceModel`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from spark_embed.errors import RowError
from spark_embed.inference.decode import Buffer, open_image, open_with_pillow
from spark_embed.inference.fetch.read_ahead import Columns
from spark_embed.models import Compared, Inputs, Model, Prediction, Prepared, ReferenceModel
from spark_embed.schema import Result, Results

MAX_SCORE_DIFFERENCE = 0.02
"""Up to this a score counts as equal. EfficientNet-Lite0 on 400 photos, against Pillow and transformers: up
to 0.010 and no other label in float32, whose resized pixels differ by up to two grey levels; 0.066 and 15
other labels in bfloat16."""


@dataclass(frozen=True)
class Parity:
    """How the run's results compare with plain transformers on some of its own images.

    Attributes:
        n_images: images compared; broken and extremely narrow ones cannot be, nor those for which plain
            transformers has no usable result either.
        min_cosine: smallest cosine between a vector of the run and its reference; None for no image, or a
            model that gives no vectors.
        max_pixel_difference: largest difference of a prepared pixel, in grey levels (0 to 255); None
            where the model's own processor prepares the images, so that nothing can differ.
        unmeasured: why nothing is compared, where the model has nothing to be compared with.
        n_same_label: images with the reference's label; None for a model that gives none.
        max_score_difference: largest difference of a label's score, of these.
        by_result: the same of each result, where more than one is compared; the figures above are then the
            worst, and of labels how many images have all of them the same. Of one that has a reference on
            fewer images (captions that are null), `n_compared` says on how many.
        what: what is compared: "images" stand for rows of them, "texts" for rows of texts alone.
    """

    n_images: int = 0
    min_cosine: float | None = None
    max_pixel_difference: float | None = None
    unmeasured: str | None = None
    n_same_label: int | None = None
    max_score_difference: float | None = None
    by_result: Mapping[str, Mapping[str, float | int]] | None = None
    what: Literal["images", "texts"] = "images"


UNMEASURED = Parity()
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
    images: Iterable[tuple[Buffer, Columns]],
    max_pixels: int,
    errors: list[RowError] | None = None,
    min_edge: int | None = None,
) -> Iterator[Sampled]:
    """Yield the encoded images that can be compared, prepared in both ways; decodes one at a time.

    Args:
        model: one with a reference.
        images: encoded, each with the values of the columns that the model takes.
        max_pixels: of an image.
        errors: is given why images were left out.
        min_edge: prepare large JPEGs from a smaller scale as well; see `open_image`. Their whole pixels are
            Pillow's then, the same as those of a run that does not scale.
    """
    if model.reference is None:
        return
    for data, columns in images:
        try:
            yield _prepare_both(model, model.reference, data, columns or {}, max_pixels, min_edge)
        except RowError as exc:  # it will be an error row; there is nothing to compare
            if errors is not None:
                errors.append(exc)


def _prepare_both(
    model: Model,
    plain: ReferenceModel,
    data: Buffer,
    columns: Mapping[str, Any],
    max_pixels: int,
    min_edge: int | None,
) -> Sampled:
    """Return an image as the run and as the reference prepare it; holds the pixels of one decode at once."""
    opened = open_image(data, max_pixels, min_edge=min_edge)
    started = time.perf_counter()
    pixels = open_with_pillow(data).decode()
    decode_s = time.perf_counter() - started
    reference = plain.prepare(Inputs(pixels, None, columns))

    def sampled(inputs: Inputs, decode_s: float) -> Sampled:
        started = time.perf_counter()
        prepared = model.prepare(inputs)
        prepare_s = decode_s + time.perf_counter() - started
        return Sampled(prepared, reference, plain.difference(prepared, reference), prepare_s)

    whole = sampled(Inputs(pixels, None, columns), decode_s) if opened.scale > 1 else None
    del pixels
    started = time.perf_counter()
    inputs = Inputs(opened.decode(), None, columns, opened.box)
    own = sampled(inputs, time.perf_counter() - started)
    return replace(whole, scaled=own) if whole else own


def predict_references(model: Model, sample: Sequence[Sampled]) -> Compared:
    """Return what the reference makes of the sample, which is the same in any precision of `model`.

    Takes a second copy of the network.
    """
    if model.reference is None or not sample:
        return {}
    return model.reference.predict([item.reference for item in sample])


def measure_parity(model: Model, sample: Sequence[Sampled], references: Compared | None = None) -> Parity:
    """Compare the results of `model` with the reference's: with those given, or predicted here."""
    if model.reference is None:
        return NO_REFERENCE
    if not sample:
        return Parity()
    if references is None:
        references = predict_references(model, sample)
    pixels = [item.pixel_difference for item in sample if item.pixel_difference is not None]
    parity = _compare(model.predict([item.prepared for item in sample]), references, model.gives)
    what: Literal["images", "texts"] = "images" if model.takes.image else "texts"
    return replace(parity, max_pixel_difference=max(pixels, default=None), what=what)


def find_shortfall(measured: Mapping[str, Any], min_cosine: float) -> str | None:
    """Return by what the values of a `Parity` fall short of counting as equal; None if they do not."""
    n_images, cosine = measured["n_images"], measured.get("min_cosine")
    for name, figures in (measured.get("by_result") or {}).items():
        if shortfall := find_shortfall(
            {"n_images": figures.get("n_compared", n_images), **figures}, min_cosine
        ):
            return f"{name}: {shortfall}"
    n_same, difference = measured.get("n_same_label"), measured.get("max_score_difference")
    if cosine is not None and not cosine >= min_cosine:  # NaN falls short, too
        return (
            f"smallest cosine with plain transformers is {cosine:.6f}, below --parity_min_cosine {min_cosine}"
        )
    if n_same is not None and n_same < n_images:
        return f"{n_images - n_same} of {n_images} images have another label by plain transformers"
    if difference is not None and not difference <= MAX_SCORE_DIFFERENCE:
        return (
            f"a score differs from plain transformers' by {difference:.4f}, more than {MAX_SCORE_DIFFERENCE}"
        )
    return None


def _compare(prediction: Prediction, references: Compared, gives: Results) -> Parity:
    """Compare each result where it has a usable reference; one that is itself unusable is like none.

    So a precision that overflows where float32 does not is seen, and not taken for a bad image. Results that
    have no reference do not matter.
    """
    compared = [one for one in gives if any(field.name in references for field in one.fields)]
    measured = {one.name: _measure(prediction, references, one) for one in compared}
    measured = {name: one for name, one in measured.items() if one.usable.any()}
    if not measured:
        return Parity()
    parity = _sum_up(list(measured.values()))
    if len(measured) == 1:
        return parity
    return replace(
        parity, by_result={name: _figures(_sum_up([one]), parity) for name, one in measured.items()}
    )


class _Measured(NamedTuple):
    """How one result compares, by image; None for what it does not give.

    `usable` says whose reference can be used: only theirs count of what else there is.
    """

    usable: npt.NDArray[np.bool_]
    cosines: npt.NDArray[np.float64] | None = None
    labels: npt.NDArray[np.bool_] | None = None
    scores: npt.NDArray[np.float64] | None = None


def _measure(prediction: Prediction, references: Compared, result: Result) -> _Measured:
    failed = list(prediction.failures.get(result.name, ()))
    names = [field.name for field in result.fields if field.name in references]
    measured = _Measured(np.logical_and.reduce([_is_usable(references[name]) for name in names]))
    if not measured.usable.any():  # as of captions that are all null: the run's are then of no length
        return measured
    for name in names:
        expected = references[name]
        found = np.array(prediction.columns[name], dtype=np.float64)
        found[failed] = 0
        if expected.ndim == 2:
            measured = measured._replace(cosines=_cosines(found, expected))
        elif np.issubdtype(expected.dtype, np.integer):
            found[failed] = -1
            measured = measured._replace(labels=found == expected)
        else:
            measured = measured._replace(scores=np.abs(found - expected))
    return measured


def _sum_up(measured: Sequence[_Measured]) -> Parity:
    cosines = [one.cosines[one.usable] for one in measured if one.cosines is not None]
    labels = [one.labels | ~one.usable for one in measured if one.labels is not None]
    scores = [one.scores[one.usable] for one in measured if one.scores is not None]
    usable = np.logical_or.reduce([one.usable for one in measured])
    return Parity(
        n_images=int(usable.sum()),
        min_cosine=float(np.concatenate(cosines).min()) if cosines else None,
        n_same_label=int(np.logical_and.reduce([usable, *labels]).sum()) if labels else None,
        max_score_difference=float(np.concatenate(scores).max()) if scores else None,
    )


def _figures(parity: Parity, whole: Parity) -> dict[str, float | int]:
    fewer = {"n_compared": parity.n_images} if parity.n_images < whole.n_images else {}
    figures = {name: getattr(parity, name) for name in ("min_cosine", "n_same_label", "max_score_difference")}
    return {**fewer, **{name: value for name, value in figures.items() if value is not None}}


def _is_usable(expected: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    rows = expected.reshape(len(expected), -1)
    usable: npt.NDArray[np.bool_] = np.isfinite(rows).all(axis=1)
    return usable & rows.any(axis=1) if expected.ndim == 2 else usable


def _cosines(vectors: npt.NDArray[np.float64], references: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the cosine of each vector with its reference; 0 where one has no length."""
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(references.astype(np.float64), axis=1)
    cosines: npt.NDArray[np.float64] = np.sum(vectors * references, axis=1) / np.where(
        lengths > 0, lengths, 1
    )
    return cosines
