"""A batch that does not fit into the device's memory, in halves; knows no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from spark_embed.errors import ImageError, RowError
from spark_embed.models import Prediction, Prepared, Values, join_values

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
        self,
        batch: list[Prepared],
        predict: Callable[[list[Prepared]], Prediction],
        nothing: Mapping[str, Values],
        result: str,
    ) -> Prediction:
        """Return what `predict` gives for `batch`.

        A row that does not fit even alone lacks the `result`, `out_of_memory`, and has the values of
        `nothing`, which are those of one row.
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
        joined = _joined(pieces, nothing, result)
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


def _joined(
    pieces: list[tuple[int, Prediction | None]], nothing: Mapping[str, Values], result: str
) -> Prediction:
    """Put pieces together, each with the row at which it starts; None is one row that did not fit."""
    if len(pieces) == 1 and pieces[0][1] is not None:
        return pieces[0][1]
    failures: dict[int, RowError] = {}
    for start, piece in pieces:
        if piece is None:
            failures[start] = ImageError("out_of_memory", "a batch of one does not fit into the device")
        else:
            failures |= {start + row: error for row, error in piece.failures.get(result, {}).items()}
    columns = [nothing if piece is None else piece.columns for _, piece in pieces]
    return Prediction(
        {name: join_values([part[name] for part in columns]) for name in nothing}, {result: failures}
    )
