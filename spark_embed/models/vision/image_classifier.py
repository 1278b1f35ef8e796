"""Image -> labels and their scores, for every family of vision models that transformers has a head for."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np
import torch

from spark_embed.errors import ImageError, ModelError, RowError
from spark_embed.models import Compared, Inputs, Prediction, Prepared, Recipe, Values
from spark_embed.models.vision.network import VisionNetwork
from spark_embed.models.vision.outputs import LOGITS, Outputs
from spark_embed.models.vision.reference import PlainTransformers
from spark_embed.models.vision.vectors import check_vectors
from spark_embed.schema import EMBEDDING, LABEL, Field, Result, Results

LABEL_FIELDS = (
    Field(LABEL, "string"),
    Field("label_id", "int"),
    Field("score", "float"),
    Field("top_labels", "array<string>"),
    Field("top_scores", "array<float>"),
)


class ImageClassifier:
    """The labels of each image, the best first; implements `spark_embed.models.Model`.

    Attributes:
        recipe: with everything resolved.
        network: what makes the scores, and in the same pass the embedding, if that is wanted.
        top_k: labels in the lists.
    """

    codes: frozenset[str] = frozenset()  # those of images say all

    def __init__(self, recipe: Recipe, *, fold: bool = True) -> None:
        """Load the model (slow; runs once per worker process).

        Args:
            recipe: of the model; `with_embedding`, `top_k` and `min_score` are its options.
            fold: as `VisionNetwork`.

        Raises:
            ModelError: as `VisionNetwork`, or its head has another number of outputs than there are labels.
        """
        self._has_embedding = bool(recipe.option("with_embedding"))
        wanted = (LOGITS, EMBEDDING) if self._has_embedding else (LOGITS,)
        self.network = VisionNetwork(recipe, wanted, fold=fold)
        self.recipe, self.takes = self.network.recipe, self.network.takes
        self.labels, n_outputs = self.network.labels, self.network.dims[LOGITS]
        if len(self.labels) != n_outputs:
            raise ModelError(
                f"--model_directory {recipe.source}: the head gives {n_outputs:,} scores, and config.json "
                f"names {len(self.labels):,} labels"
            )
        self.top_k = min(recipe.option("top_k"), n_outputs)
        self._min_score = float(recipe.option("min_score"))

    @property
    def gives(self) -> Results:
        """One result: label and embedding come of one pass, and are there together."""
        vector = (Field(EMBEDDING, "vector"),) if self._has_embedding else ()
        return (Result(LABEL, LABEL_FIELDS + vector),)

    @property
    def reference(self) -> PlainTransformers:
        """The same network by transformers alone."""
        return PlainTransformers(self.network, self._best_of)

    def prepare(self, inputs: Inputs) -> Prepared:
        """See `VisionNetwork.prepare`."""
        return self.network.prepare(inputs)

    def predict(self, batch: list[Prepared]) -> Prediction:
        """See `Model.predict`."""
        nothing: dict[str, Values] = {LABEL: [""], "label_id": [0], "score": [0.0]}
        nothing |= {"top_labels": [[]], "top_scores": [[]]}
        if self._has_embedding:
            nothing[EMBEDDING] = np.zeros((1, self.network.dims[EMBEDDING]), dtype=np.float32)
        return self.network.predict(batch, self._make, nothing, LABEL)

    def describe(self) -> dict[str, Any]:
        """See `Model.describe`."""
        description = {
            **self.network.describe(),
            "output": f"{'sigmoid' if self.network.is_multi_label else 'softmax'} of the logits",
            "n_labels": len(self.labels),
            "labels_sha256": sha256("\n".join(self.labels).encode()).hexdigest(),
            "top_k": self.top_k,
            "min_score": self._min_score,
        }
        if self._has_embedding:
            description |= {
                "embedding_dim": self.network.dims[EMBEDDING],
                "normalized": self.recipe.normalize,
                "embedding": self.network.family.output,
            }
        return description

    def _make(self, outputs: Outputs) -> Prediction:
        logits = outputs[LOGITS]
        scores = torch.sigmoid(logits) if self.network.is_multi_label else torch.softmax(logits, dim=1)
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
                outputs[EMBEDDING].cpu(), normalize=self.recipe.normalize
            )
        for row in torch.nonzero(~torch.isfinite(logits).all(dim=1)).flatten().tolist():
            failures[row] = ImageError("bad_vector", "the model returned NaN or infinity")
        return Prediction(columns, {LABEL: failures})

    def _best_of(self, outputs: Compared) -> Compared:
        """Return what the reference's outputs say of the columns, as plain arithmetic has it."""
        logits = outputs[LOGITS].astype(np.float64)
        if self.network.is_multi_label:
            scores = 1 / (1 + np.exp(-logits))
        else:
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            scores = powers / powers.sum(axis=1, keepdims=True)
        vectors = {EMBEDDING: outputs[EMBEDDING]} if self._has_embedding else {}
        return {"label_id": scores.argmax(axis=1), "score": scores.max(axis=1), **vectors}
