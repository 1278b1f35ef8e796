"""Scores of labels -> the columns of a classification; knows neither where labels nor scores come from."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from spark_embed.errors import ImageError, RowError
from spark_embed.models import Compared, Prediction, Recipe, Values
from spark_embed.models.vectors import check_vectors
from spark_embed.models.vision.outputs import LOGITS, Outputs
from spark_embed.schema import EMBEDDING, LABEL, LABEL_FIELDS, Field, Result, Results


class Labelling:
    """What is made of a batch's logits, and of the embeddings beside them if they are wanted.

    Attributes:
        labels: their names, in the order of the logits.
        is_multi_label: each has a probability of its own (sigmoid, not softmax).
        top_k: labels in the lists.
    """

    def __init__(
        self, recipe: Recipe, labels: Sequence[str], *, is_multi_label: bool, embedding_dim: int | None
    ) -> None:
        """Prepare for batches.

        Args:
            recipe: of the model; `with_embedding`, `top_k` and `min_score` are its options.
            labels: in the order of the logits.
            is_multi_label: each has a probability of its own.
            embedding_dim: length of an embedding, where there is one.
        """
        self.labels, self.is_multi_label = labels, is_multi_label
        self.top_k = min(recipe.option("top_k"), len(labels))
        self._min_score = float(recipe.option("min_score"))
        self._has_embedding, self._normalize = bool(recipe.option("with_embedding")), recipe.normalize
        self._embedding_dim = embedding_dim or 0

    @property
    def gives(self) -> Results:
        """One result: label and embedding come of one pass, and are there together."""
        vector = (Field(EMBEDDING, "vector"),) if self._has_embedding else ()
        return (Result(LABEL, LABEL_FIELDS + vector),)

    def nothing(self) -> dict[str, Values]:
        """Return the values of a row that has none."""
        values: dict[str, Values] = {LABEL: [""], "label_id": [0], "score": [0.0]}
        values |= {"top_labels": [[]], "top_scores": [[]]}
        if self._has_embedding:
            values[EMBEDDING] = np.zeros((1, self._embedding_dim), dtype=np.float32)
        return values

    def describe(self, embedding: str) -> dict[str, Any]:
        """Return what decides the columns, beside the network; `embedding` is what that is, in words."""
        description: dict[str, Any] = {
            "n_labels": len(self.labels),
            "labels_sha256": sha256("\n".join(self.labels).encode()).hexdigest(),
            "top_k": self.top_k,
            "min_score": self._min_score,
        }
        if self._has_embedding:
            description |= {
                "embedding_dim": self._embedding_dim,
                "normalized": self._normalize,
                "embedding": embedding,
            }
        return description

    def make(self, outputs: Outputs) -> Prediction:
        """Return the columns of a batch, whose outputs are float32 (n, dim)."""
        logits = outputs[LOGITS]
        scores = torch.sigmoid(logits) if self.is_multi_label else torch.softmax(logits, dim=1)
        found, numbers = scores.topk(self.top_k, dim=1)
        is_kept = found >= self._min_score
        n_kept, ids, top = is_kept.sum(dim=1).tolist(), numbers.tolist(), found.tolist()
        columns: dict[str, Values] = {
            LABEL: [self.labels[row[0]] for row in ids],
            "label_id": [row[0] for row in ids],
            "score": [row[0] for row in top],
            "top_labels": [[self.labels[one] for one in row[:n]] for row, n in zip(ids, n_kept, strict=True)],
            "top_scores": [row[:n] for row, n in zip(top, n_kept, strict=True)],
        }
        failures: dict[int, RowError] = {}
        if self._has_embedding:
            columns[EMBEDDING], failures = check_vectors(
                outputs[EMBEDDING].cpu().numpy(), normalize=self._normalize
            )
        for row in torch.nonzero(~torch.isfinite(logits).all(dim=1)).flatten().tolist():
            failures[row] = ImageError("bad_vector", "the model returned NaN or infinity")
        return Prediction(columns, {LABEL: failures})

    def best_of(self, outputs: Compared) -> Compared:
        """Return what the reference's outputs say of the columns, as plain arithmetic has it."""
        logits = outputs[LOGITS].astype(np.float64)
        if self.is_multi_label:
            scores = 1 / (1 + np.exp(-logits))
        else:
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            scores = powers / powers.sum(axis=1, keepdims=True)
        vectors = {EMBEDDING: outputs[EMBEDDING]} if self._has_embedding else {}
        return {"label_id": scores.argmax(axis=1), "score": scores.max(axis=1), **vectors}
