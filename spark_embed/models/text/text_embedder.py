"""Text -> embedding, without any image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spark_embed.errors import ModelError
from spark_embed.models import Compared, Inputs, Prediction, Prepared, Recipe, ReferenceModel, Takes
from spark_embed.models.text.tower import TEXT_RESULT, TextTower, clean_text
from spark_embed.schema import TEXT_EMBEDDING


class TextEmbedder:
    """A vector of each text; implements `spark_embed.models.Model`.

    Attributes:
        recipe: with everything resolved.
        takes: the column with the texts.
        tower: what makes the vectors.
    """

    gives = (TEXT_RESULT,)
    codes = frozenset({"no_text", "out_of_memory", "bad_vector"})

    def __init__(self, recipe: Recipe) -> None:
        """Load the model (slow; runs once per worker process).

        Args:
            recipe: of the model; `text_column` is its option.

        Raises:
            ModelError: as `TextTower`, or it is to be compiled.
        """
        if recipe.compile_rows:
            raise ModelError("--compile true: not for texts, whose lengths vary; leave it out")
        self._column: str = recipe.option("text_column")
        self.tower = TextTower(recipe)
        self.recipe = self.tower.recipe
        self.takes = Takes(image=None, columns=(self._column,))

    @property
    def reference(self) -> ReferenceModel:
        """The same text tower by transformers alone."""
        return _PlainTexts(self)

    def prepare(self, inputs: Inputs) -> Prepared:
        """See `Model.prepare`; tokens are made of a whole batch at once, in `predict`."""
        return clean_text(inputs.columns.get(self._column), self._column)

    def predict(self, batch: list[Prepared]) -> Prediction:
        """See `Model.predict`."""
        return self.tower.predict(batch)

    def describe(self) -> dict[str, Any]:
        """See `Model.describe`."""
        return {
            "name": self.tower.name,
            "source": self.recipe.source,
            "revision": self.recipe.revision,
            "weights_sha256": self.recipe.weights_sha256,
            "dtype": self.recipe.dtype,
            "device": self.recipe.device,
            "embedding_dim": self.tower.dim,
            "normalized": self.recipe.normalize,
            "text_column": self._column,
            "text": self.tower.describe(),
        }


class _PlainTexts:
    """The reference of a text embedder; implements `spark_embed.models.ReferenceModel`."""

    def __init__(self, model: TextEmbedder) -> None:
        self.prepare = model.prepare
        self._tower = model.tower

    def difference(self, prepared: Prepared, reference: str) -> None:
        return None

    def predict(self, batch: Sequence[str]) -> Compared:
        return {TEXT_EMBEDDING: self._tower.plain_vectors(batch)}
