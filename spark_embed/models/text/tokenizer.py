"""Texts -> tokens, by the model's own tokenizer; knows no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers

from spark_embed.errors import ModelError, one_line
from spark_embed.models import Recipe
from spark_embed.models.vision.checkpoint import LIBRARY_ERRORS

Tokens = dict[str, torch.Tensor]
"""Model inputs by name, each int64 (n, length), on the CPU."""


class Tokenizer:
    """A folder's tokenizer, as plain transformers loads it.

    Attributes:
        max_tokens: of a text, those of its begin and end included; the rest is cut off.
    """

    def __init__(self, folder: str, recipe: Recipe, padding: str, n_positions: int) -> None:
        """Load it (slow).

        Args:
            folder: on this machine.
            recipe: of the model; code of the folder runs only if it says so.
            padding: "longest" of a batch, or "max_length".
            n_positions: of the network: no text may be longer.

        Raises:
            ModelError: it cannot be loaded.
        """
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                folder, trust_remote_code=recipe.trust_remote_code, local_files_only=True
            )
            self.max_tokens = min(int(self._tokenizer.model_max_length), n_positions)
            self._padding = padding
            self(["a photo"])
        except LIBRARY_ERRORS as exc:
            hint = "; SigLIP's needs spark-embed[text]" if "sentencepiece" in str(exc).lower() else ""
            raise ModelError(
                f"--model_directory {recipe.source}: its tokenizer cannot be loaded: {one_line(exc)}{hint}"
            ) from exc

    def plain(self, text: str) -> Tokens:
        """Return the tokens of a single text as plain transformers' own call makes them."""
        encoded = self._tokenizer(
            text, truncation=True, max_length=self.max_tokens, padding=self._padding, return_tensors="pt"
        )
        return dict(encoded)

    def __call__(self, texts: Sequence[str]) -> tuple[Tokens, list[bool]]:
        """Return the tokens of some texts, padded, and which of the texts were cut."""
        limit = self.max_tokens
        encoded = self._tokenizer(list(texts), truncation=True, max_length=limit)
        full = [row for row, ids in enumerate(encoded["input_ids"]) if len(ids) >= limit]
        is_cut = [False] * len(texts)
        if full:  # no tokenizer says so itself
            whole = self._tokenizer([texts[row] for row in full], truncation=False, verbose=False)
            for row, ids in zip(full, whole["input_ids"], strict=True):
                is_cut[row] = len(ids) > limit
        tokens = self._tokenizer.pad(encoded, padding=self._padding, max_length=limit, return_tensors="pt")
        return dict(tokens), is_cut
