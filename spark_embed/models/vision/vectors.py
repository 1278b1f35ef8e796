"""Vectors as they leave a network -> those of a result, and the rows that have none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from spark_embed.errors import ImageError, RowError


def check_vectors(
    vectors: torch.Tensor, *, normalize: bool
) -> tuple[npt.NDArray[np.float32], dict[int, RowError]]:
    """Find the rows that are no vectors, and scale the others to length 1 if wanted.

    Args:
        vectors: float32 (n, dim), on the CPU.
        normalize: scale them.
    """
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    bad = ~torch.isfinite(lengths) | (lengths == 0)
    if normalize:
        vectors = vectors / lengths.unsqueeze(1)
    failures: dict[int, RowError] = {}
    for row in torch.nonzero(bad).flatten().tolist():
        what = "only zeros" if lengths[row] == 0 else "NaN or infinity"
        failures[row] = ImageError("bad_vector", f"the model returned {what}")
    return vectors.numpy(), failures
