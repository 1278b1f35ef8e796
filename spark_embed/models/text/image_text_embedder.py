"""Image and caption -> an embedding of each in the same space, and how close the two are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from spark_embed.errors import RowError
from spark_embed.models import Compared, Inputs, Prediction, Prepared, Recipe, ReferenceModel
from spark_embed.models.partial import predict_prepared, try_prepare
from spark_embed.models.text.tower import TEXT_RESULT, TextTower, check_one_space, clean_text, cosines
from spark_embed.models.vision.image_embedder import ImageEmbedder
from spark_embed.models.vision.reference import PlainTransformers
from spark_embed.schema import EMBEDDING, EMBEDDING_RESULTS, TEXT_EMBEDDING, Field, Result

CLIP_SCORE = "clip_score"
(_IMAGE_RESULT,) = EMBEDDING_RESULTS
_SCORE_RESULT = Result(CLIP_SCORE, (Field(CLIP_SCORE, "float"),))


class _Pair(NamedTuple):
    """What is made of a row: of each side, what its tower takes, or why there is nothing."""

    image: Prepared | RowError
    text: str | RowError


class ImageTextEmbedder:
    """Vectors of images and of their captions; implements `spark_embed.models.Model`.

    Each side goes its own way: what is wrong with one costs the other nothing.

    Attributes:
        recipe: with everything resolved.
        takes: what the image takes, and the column with the captions.
    """

    gives = (_IMAGE_RESULT, TEXT_RESULT, _SCORE_RESULT)
    codes = frozenset({"no_text"})

    def __init__(self, recipe: Recipe, *, fold: bool = True) -> None:
        """Load both towers (slow; runs once per worker process).

        Args:
            recipe: of the model; `text_column` is its option.
            fold: as `VisionNetwork`.

        Raises:
            ModelError: as `VisionNetwork` and `TextTower`.
        """
        self._column: str = recipe.option("text_column")
        self._images = ImageEmbedder(recipe, fold=fold)
        self.recipe = self._images.recipe
        self._tower = TextTower(self.recipe)
        check_one_space(recipe, self._images.embedding_dim, self._tower.dim)
        self.takes = replace(self._images.takes, columns=(self._column,))

    @property
    def reference(self) -> ReferenceModel:
        """Those of the images and of the texts."""
        return _PlainPairs(self._images.reference, self._tower, self._text)

    def prepare(self, inputs: Inputs) -> Prepared:
        """See `Model.prepare`; of a row that lacks both, `predict` says of each why."""
        return _Pair(
            try_prepare(lambda: self._images.prepare(inputs)),
            self._text(inputs),
        )

    def _text(self, inputs: Inputs) -> str | RowError:
        return try_prepare(lambda: clean_text(inputs.columns.get(self._column), self._column))

    def predict(self, batch: list[Prepared]) -> Prediction:
        """See `Model.predict`. The score is the cosine, whether the vectors are normalised or not."""
        images = predict_prepared([pair.image for pair in batch], self._images.predict, (_IMAGE_RESULT,))
        texts = predict_prepared([pair.text for pair in batch], self._tower.predict, (TEXT_RESULT,))
        failed = {**texts.failures[TEXT_RESULT.name], **images.failures[EMBEDDING]}
        scores = [0.0] * len(batch)
        if both := [row for row in range(len(batch)) if row not in failed]:
            one, other = images.columns[EMBEDDING], texts.columns[TEXT_EMBEDDING]
            for row, score in zip(both, cosines(np.asarray(one)[both], np.asarray(other)[both]), strict=True):
                scores[row] = float(score)
        limits = [limit for limit in (images.batch_limit, texts.batch_limit) if limit]
        return Prediction(
            {**images.columns, **texts.columns, CLIP_SCORE: scores},
            {**images.failures, **texts.failures, CLIP_SCORE: failed},
            min(limits, default=None),
        )

    def describe(self) -> dict[str, Any]:
        """See `Model.describe`."""
        return {
            **self._images.describe(),
            "text_column": self._column,
            "text": self._tower.describe(),
        }


class _PlainPairs:
    """The references of both sides; implements `spark_embed.models.ReferenceModel`."""

    def __init__(
        self, images: PlainTransformers, tower: TextTower, text: Callable[[Inputs], str | RowError]
    ) -> None:
        self._images, self._tower, self._text = images, tower, text

    def prepare(self, inputs: Inputs) -> tuple[Any, str | RowError]:
        return self._images.prepare(inputs), self._text(inputs)

    def difference(self, prepared: Prepared, reference: tuple[Any, str | RowError]) -> float | None:
        if isinstance(prepared.image, RowError):
            raise prepared.image
        return self._images.difference(prepared.image, reference[0])

    def predict(self, batch: Sequence[tuple[Any, str | RowError]]) -> Compared:
        images = self._images.predict([image for image, _ in batch])
        return {**images, TEXT_EMBEDDING: self._tower.plain_vectors([text for _, text in batch])}
