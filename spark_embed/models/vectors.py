"""Vectors as any kind of model gives them -> those of a result, and the rows without one; no torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spark_embed.errors import ImageError, RowError


def check_vectors(
    vectors: npt.NDArray[np.float32], *, normalize: bool
) -> tuple[npt.NDArray[np.float32], dict[int, RowError]]:
    """Find the rows that are no vectors, and scale the others to length 1 if wanted.

    Args:
        vectors: (n, dim).
        normalize: scale them.
    """
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1).astype(np.float32)
    usable = np.isfinite(lengths) & (lengths > 0)
    failures: dict[int, RowError] = {}
    for row in np.flatnonzero(~usable).tolist():
        what = "only zeros" if lengths[row] == 0 else "NaN or infinity"
        failures[row] = ImageError("bad_vector", f"the model returned {what}")
    if normalize:
        scale: npt.NDArray[np.float32] = np.where(usable, lengths, 1).astype(np.float32)
        vectors = vectors / scale[:, np.newaxis]
    return vectors, failures
