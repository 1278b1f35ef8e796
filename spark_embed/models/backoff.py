"""A batch that does not fit into the device's memory, in halves; knows no network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from spark_embed.errors import ImageError
from spark_embed.models import Prediction, Prepared

# What torch, cuDNN and cuBLAS say where the exception's type does not.
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "alloc_failed")


class Backoff:
    """Runs batches in pieces of a size that fits; what was once too large is not tried again.

    Attributes:
        limit: images that fit into one forward pass as far as is known; None before anything failed.
    """

    def __init__(self, device: torch.device) -> None:
        self.limit: int | None = None
        self._device = device

    def run(
        self, batch: list[Prepared], predict: Callable[[list[Prepared]], Prediction], dim: int
    ) -> Prediction:
        """Return what `predict` gives for `batch`: vectors of `dim` values.

        A row that does not fit even alone is a failure, `out_of_memory`.
        """
        pieces: list[tuple[int, Prediction | None]] = []
        start = 0
        while start < len(batch):
            n_rows = min(self.limit or len(batch), len(batch) - start)
            prediction = self._try(batch[start : start + n_rows], predict)
            if prediction is None and n_rows > 1:
                self.limit = n_rows // 2
                continue
            pieces.append((start, prediction))
            start += n_rows
        joined = _joined(pieces, dim)
        joined.batch_limit = self.limit
        return joined

    def _try(
        self, piece: list[Prepared], predict: Callable[[list[Prepared]], Prediction]
    ) -> Prediction | None:
        try:
            return predict(piece)
        except (RuntimeError, MemoryError) as exc:
            if not is_out_of_memory(exc):
                raise
        # Out of the `except`: there the traceback would keep the failed pass's tensors.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        elif self._device.type == "mps":
            torch.mps.empty_cache()
        return None


def is_out_of_memory(exc: BaseException) -> bool:
    """Say whether memory, the host's or the device's, is what was missing."""
    if isinstance(exc, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(exc, RuntimeError) and any(words in str(exc).lower() for words in _MEMORY_WORDS)


def _joined(pieces: list[tuple[int, Prediction | None]], dim: int) -> Prediction:
    """Put pieces together, each with the row at which it starts; None is one row that did not fit."""
    if len(pieces) == 1 and pieces[0][1] is not None:
        return pieces[0][1]
    nothing = np.zeros((1, dim), dtype=np.float32)
    failures: dict[int, ImageError] = {}
    for start, prediction in pieces:
        if prediction is None:
            failures[start] = ImageError("out_of_memory", "a batch of one does not fit into the device")
        else:
            failures |= {start + row: error for row, error in prediction.failures.items()}
    vectors = [nothing if piece is None else piece.embedding for _, piece in pieces]
    return Prediction(np.concatenate(vectors), failures)
