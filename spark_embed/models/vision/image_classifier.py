"""Image -> labels and their scores, for every family of vision models that transformers has a head for."""

from __future__ import annotations

from typing import Any

from spark_embed.errors import ModelError
from spark_embed.models import Compared, Inputs, Prediction, Prepared, Recipe
from spark_embed.models.vision.labelling import Labelling
from spark_embed.models.vision.network import VisionNetwork
from spark_embed.models.vision.outputs import LOGITS
from spark_embed.models.vision.reference import PlainTransformers
from spark_embed.schema import EMBEDDING, LABEL, Results


class ImageClassifier:
    """The labels of each image, the best first; implements `spark_embed.models.Model`.

    Attributes:
        recipe: with everything resolved.
        network: what makes the scores, and in the same pass the embedding, if that is wanted.
        labelling: what is made of them.
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
        wanted = (LOGITS, EMBEDDING) if recipe.option("with_embedding") else (LOGITS,)
        self.network = VisionNetwork(recipe, wanted, fold=fold)
        self.recipe, self.takes = self.network.recipe, self.network.takes
        labels, n_outputs = self.network.labels, self.network.dims[LOGITS]
        if len(labels) != n_outputs:
            raise ModelError(
                f"--model_directory {recipe.source}: the head gives {n_outputs:,} scores, and config.json "
                f"names {len(labels):,} labels"
            )
        self.labelling = Labelling(
            self.recipe,
            labels,
            is_multi_label=self.network.is_multi_label,
            embedding_dim=self.network.dims.get(EMBEDDING),
        )

    @property
    def gives(self) -> Results:
        """See `Labelling.gives`."""
        return self.labelling.gives

    @property
    def reference(self) -> PlainTransformers:
        """The same network by transformers alone."""
        return PlainTransformers(self.network, self._best_of)

    def prepare(self, inputs: Inputs) -> Prepared:
        """See `VisionNetwork.prepare`."""
        return self.network.prepare(inputs)

    def predict(self, batch: list[Prepared]) -> Prediction:
        """See `Model.predict`."""
        return self.network.predict(batch, self.labelling.make, self.labelling.nothing(), LABEL)

    def describe(self) -> dict[str, Any]:
        """See `Model.describe`."""
        return {
            **self.network.describe(),
            "output": f"{'sigmoid' if self.network.is_multi_label else 'softmax'} of the logits",
            **self.labelling.describe(self.network.family.output),
        }

    def _best_of(self, outputs: Compared) -> Compared:
        return self.labelling.best_of(outputs)
