"""Whether large JPEGs may be decoded at a smaller scale: the run's own images decide; knows no decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from spark_embed.inference.preflight.parity import (
    UNMEASURED,
    Parity,
    Sampled,
    find_shortfall,
    measure_parity,
)
from spark_embed.models import Compared, Model

_SCALED_PER_RESIZED = 2.5
"""How many times the edge that it is resized to the shorter side must have once scaled.

With the embedded model, on photos with and without noise, the smallest cosine with whole decoding was 0.9985
at 2, 0.9992 at 2.5 and 0.9990 at 3; the mean 0.9994, 0.9997 and 0.9998."""


@dataclass(frozen=True)
class JpegScaling:
    """What has been decided, and why.

    Attributes:
        min_edge: what the shorter side of a scaled JPEG must keep, in pixels; None for no scaling.
        parity: of the images of the sample that scaling changes, with plain transformers on whole pictures.
        why_not: why nothing is scaled, unless that was wanted.
    """

    min_edge: int | None
    parity: Parity = UNMEASURED
    why_not: str | None = None


def smallest_edge(model: Model) -> int | None:
    """Return what the shorter side of a scaled JPEG must keep for a model, in pixels; None for no scaling."""
    edge = model.takes.edge
    return math.ceil(_SCALED_PER_RESIZED * edge) if edge else None


def choose_scaling(
    model: Model,
    sample: Sequence[Sampled],
    references: Compared,
    wanted: bool | None,
    min_cosine: float,
) -> JpegScaling:
    """Scale if that is wanted or, with None, if the sample's large JPEGs keep parity so.

    Args:
        model: as it will run.
        sample: prepared both ways where scaling makes a difference.
        references: what the reference makes of the sample.
        wanted: what an earlier run, or a person, has decided.
        min_cosine: the smallest that counts as equal.
    """
    min_edge = smallest_edge(model)
    if wanted is False:
        return JpegScaling(None)
    if min_edge is None or model.reference is None:
        return JpegScaling(None, why_not="not for this model, which prepares images in its own way")
    rows = [row for row, item in enumerate(sample) if item.scaled]
    scaled = [sample[row].scaled or sample[row] for row in rows]
    parity = measure_parity(model, scaled, {name: values[rows] for name, values in references.items()})
    if wanted:
        return JpegScaling(min_edge, parity)
    if not parity.n_images:
        why_not = f"none of the images compared is a JPEG of {2 * min_edge:,} pixels or more a side"
        return JpegScaling(None, why_not=why_not)
    if shortfall := find_shortfall(asdict(parity), min_cosine):
        return JpegScaling(None, parity, f"with it {shortfall}")
    return JpegScaling(min_edge, parity)
