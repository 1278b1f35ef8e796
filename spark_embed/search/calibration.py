"""Which threshold suits: copies of the data set's own pictures, made here, through the run's model.

What a copy is, is known: so how many copies a threshold finds, and how many other pictures it takes for some.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from spark_embed.errors import ImageError, RowError
from spark_embed.inference.decode import MAX_PIXELS, InProcessDecoder
from spark_embed.output.records import now
from spark_embed.schema import SHARD, SHARD_ROW
from spark_embed.search.pictures import Pictures
from spark_embed.search.query import QueryModel
from spark_embed.search.vectors import DataSet, Vectors, take_rows, take_vectors, unit_vectors

THRESHOLDS = (0.80, 0.85, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
COPIES = ("re-encoded", "resized", "cropped")
MIRRORED = "mirrored"
"""Not counted as a copy: whether it is one depends on what the data set is for."""

_SEED = 22


def calibrate(
    data: DataSet, n_pictures: int, dim: int, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what is to be written down (docs/search.md).

    Args:
        data: the data set.
        n_pictures: to make copies of.
        dim: of the vectors.
        given: options that say where the model is now (`QueryModel`).

    Raises:
        ConfigError, ModelError: the model or the pictures cannot be had.
    """
    pictures = Pictures(data.root)
    model = QueryModel(data.root, data.column, given)
    originals: list[Vectors] = []
    copies: dict[str, list[Vectors]] = {name: [] for name in (*COPIES, MIRRORED)}
    n_unread = 0
    for shard, row, vector in _sample(data, n_pictures, dim):
        try:
            made = {name: model.of_image(copy) for name, copy in _copies(pictures.read(shard, row))}
        except RowError:
            n_unread += 1
            continue
        originals.append(vector)
        for name, found in made.items():
            copies[name].append(found)
    if not originals:
        raise ImageError("not_found", f"none of {n_unread} pictures can be read")
    return {
        "measured_at": now(),
        "n_pictures": len(originals),
        "n_unread": n_unread,
        **_measured(originals, copies),
    }


def line_of(calibration: Mapping[str, Any], threshold: float) -> str:
    """Return what a calibration says of a threshold, for people: by the nearest that was measured."""
    best = min(calibration["thresholds"], key=lambda one: abs(one["threshold"] - threshold))
    found = ", ".join(f"{best['recall'][name]:.0%} of {name}" for name in COPIES)
    mirrored, others = best["recall"][MIRRORED], best["others"]
    return (
        f"at {best['threshold']:g}: {found} copies found ({mirrored:.0%} of {MIRRORED} ones), "
        f"and {others:.2%} of pairs of different pictures, by {calibration['n_pictures']} of the data set"
    )


def _measured(originals: list[Vectors], copies: Mapping[str, list[Vectors]]) -> dict[str, Any]:
    own = np.stack(originals)
    scores = {name: unit_vectors(np.stack(some))[1] @ own.T for name, some in copies.items()}
    is_own = np.eye(len(own), dtype=np.bool_)
    thresholds = []
    for threshold in THRESHOLDS:
        recall = {name: float((some[is_own] >= threshold).mean()) for name, some in scores.items()}
        n_right = sum(int((scores[name][is_own] >= threshold).sum()) for name in COPIES)
        n_wrong = sum(int((scores[name][~is_own] >= threshold).sum()) for name in COPIES)
        n_others = len(COPIES) * len(own) * (len(own) - 1)
        thresholds.append(
            {
                "threshold": threshold,
                "recall": recall,
                "precision": n_right / (n_right + n_wrong) if n_right + n_wrong else None,
                "others": n_wrong / max(1, n_others),
            }
        )
    lowest = {name: round(float(some[is_own].min()), 4) for name, some in scores.items()}
    return {"lowest_score": lowest, "thresholds": thresholds}


def _sample(data: DataSet, n_pictures: int, dim: int) -> Iterator[tuple[str, int, Vectors]]:
    """Yield rows from all over the data set, with their vectors; files with none are passed over."""
    rng = np.random.default_rng(_SEED)
    numbers = np.sort(rng.choice(data.n_rows, min(n_pictures, data.n_rows), replace=False))
    first = 0
    for file in data.files:
        rows = (numbers[(numbers >= first) & (numbers < first + file.n_rows)] - first).tolist()
        first += file.n_rows
        if not rows:
            continue
        path = data.path(file.name)
        valid = take_rows(path, rows, [data.column]).column(0).is_valid().to_pylist()
        rows = [row for row, is_valid in zip(rows, valid, strict=True) if is_valid]
        keys = take_rows(path, rows, [SHARD, SHARD_ROW]).to_pylist()
        vectors = take_vectors(path, data.column, rows, dim)
        for key, vector in zip(keys, vectors, strict=True):
            yield key[SHARD], key[SHARD_ROW], vector


def _copies(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield copies of a picture, as people make them."""
    pixels = InProcessDecoder(MAX_PIXELS, False, None).open_image(data).decode()
    image = Image.fromarray(np.asarray(pixels))
    width, height = image.size
    yield "re-encoded", _encoded(image, 60)
    yield (
        "resized",
        _encoded(image.resize((max(1, width // 2), max(1, height // 2)), Image.Resampling.BICUBIC)),
    )
    edge = width // 20, height // 20
    yield "cropped", _encoded(image.crop((*edge, max(width - edge[0], 1), max(height - edge[1], 1))))
    yield MIRRORED, _encoded(ImageOps.mirror(image))


def _encoded(image: Image.Image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()
