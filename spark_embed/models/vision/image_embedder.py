"""Image -> embedding, for every family of transformers vision models."""

from __future__ import annotations

from typing import Any

import numpy as np

from spark_embed.models import Inputs, Prediction, Prepared, Recipe
from spark_embed.models.vectors import check_vectors
from spark_embed.models.vision.network import VisionNetwork
from spark_embed.models.vision.outputs import Outputs
from spark_embed.models.vision.reference import PlainTransformers
from spark_embed.schema import EMBEDDING, EMBEDDING_RESULTS


class ImageEmbedder:
    """A vector of each image; implements `spark_embed.models.Model`.

    Attributes:
        recipe: with everything resolved.
        network: what makes the vectors.
        embedding_dim: length of a vector.
    """

    gives = EMBEDDING_RESULTS
    codes: frozenset[str] = frozenset()  # those of images say all

    def __init__(self, recipe: Recipe, *, fold: bool = True) -> None:
        """Load the model (slow; runs once per worker process).

        Args:
            recipe: of the model.
            fold: as `VisionNetwork`.

        Raises:
            ModelError: as `VisionNetwork`.
        """
        self.network = VisionNetwork(recipe, (EMBEDDING,), fold=fold)
        self.recipe, self.takes = self.network.recipe, self.network.takes
        self.embedding_dim = self.network.dims[EMBEDDING]

    @property
    def reference(self) -> PlainTransformers:
        """The same network by transformers alone; its vectors are as the network leaves them."""
        return PlainTransformers(self.network, lambda outputs: outputs)

    def prepare(self, inputs: Inputs) -> Prepared:
        """See `VisionNetwork.prepare`."""
        return self.network.prepare(inputs)

    def predict(self, batch: list[Prepared]) -> Prediction:
        """See `Model.predict`. The vectors are float32, and of length 1 if the recipe normalises."""
        nothing = {EMBEDDING: np.zeros((1, self.embedding_dim), dtype=np.float32)}
        return self.network.predict(batch, self._make, nothing, EMBEDDING)

    def describe(self) -> dict[str, Any]:
        """See `Model.describe`."""
        return {
            **self.network.describe(),
            "embedding_dim": self.embedding_dim,
            "normalized": self.recipe.normalize,
            "output": self.network.family.output,
        }

    def _make(self, outputs: Outputs) -> Prediction:
        vectors, failures = check_vectors(outputs[EMBEDDING].cpu().numpy(), normalize=self.recipe.normalize)
        return Prediction({EMBEDDING: vectors}, {EMBEDDING: failures})
