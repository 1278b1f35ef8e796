"""Image -> labels that are given as words, by a model that was trained to compare images with texts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from spark_embed.errors import ModelError
from spark_embed.models import Compared, Inputs, Prediction, Prepared, Recipe
from spark_embed.models.text.label_side import LabelSide, make_label_side
from spark_embed.models.text.tower import check_one_space
from spark_embed.models.vision.labelling import Labelling
from spark_embed.models.vision.network import VisionNetwork
from spark_embed.models.vision.outputs import LOGITS, Outputs
from spark_embed.models.vision.reference import PlainTransformers
from spark_embed.schema import EMBEDDING, LABEL, Results

_LABEL_SIDE = "label_side"


class ZeroShotClassifier:
    """The labels of each image, the best first; implements `spark_embed.models.Model`.

    The vectors of the labels are made where the recipe is resolved, in preflight, and travel in it: no worker
    of the run loads a text tower, and all have the same ones.

    Attributes:
        recipe: with everything resolved, the label side included.
        network: what makes the images' vectors.
        labelling: what is made of an image's scores.
    """

    codes: frozenset[str] = frozenset()  # those of images say all

    def __init__(self, recipe: Recipe, *, fold: bool = True) -> None:
        """Load the model (slow; runs once per worker process).

        Args:
            recipe: of the model; its options are those of a classifier, `labels` and `prompt`.
            fold: as `VisionNetwork`.

        Raises:
            ModelError: as `VisionNetwork` and `TextTower`, or there is nothing to choose from.
        """
        self._prompt: str = recipe.option("prompt")
        self.network = VisionNetwork(recipe, (EMBEDDING,), fold=fold)
        self.recipe, self.takes = self.network.recipe, self.network.takes
        labels: tuple[str, ...] = recipe.option("labels")
        if known := dict(recipe.options).get(_LABEL_SIDE):
            self._side = LabelSide.from_json(known)
        else:
            self._side = make_label_side(self.recipe, labels, self._prompt)
            side = (_LABEL_SIDE, self._side.to_json())
            self.recipe = replace(self.recipe, options=(*self.recipe.options, side))
        if self._side.scores == "softmax" and len(labels) == 1:
            raise ModelError(
                f"--labels {labels[0]}: a single one has a score of 1 on every image; give others"
            )
        check_one_space(recipe, self.network.dims[EMBEDDING], self._side.vectors.shape[1])
        self.labelling = Labelling(
            self.recipe,
            labels,
            is_multi_label=self._side.scores == "sigmoid",
            embedding_dim=self.network.dims[EMBEDDING],
        )
        self._texts = torch.from_numpy(self._side.vectors).to(self.recipe.device)

    @property
    def gives(self) -> Results:
        """See `Labelling.gives`."""
        return self.labelling.gives

    @property
    def reference(self) -> PlainTransformers:
        """The network of the images by transformers alone, against the same labels."""
        return PlainTransformers(self.network, self._best_of)

    def prepare(self, inputs: Inputs) -> Prepared:
        """See `VisionNetwork.prepare`."""
        return self.network.prepare(inputs)

    def predict(self, batch: list[Prepared]) -> Prediction:
        """See `Model.predict`."""
        return self.network.predict(batch, self._make, self.labelling.nothing(), LABEL)

    def describe(self) -> dict[str, Any]:
        """See `Model.describe`."""
        return {
            **self.network.describe(),
            "output": f"{self._side.scores} of the scaled cosines with the labels",
            "prompt": self._prompt,
            "text": self._side.text,
            **self.labelling.describe(self.network.family.output),
        }

    def _make(self, outputs: Outputs) -> Prediction:
        """Compare in float32, whatever the network computes in."""
        images = outputs[EMBEDDING]
        cosines = images / torch.linalg.vector_norm(images, dim=1, keepdim=True) @ self._texts.T
        return self.labelling.make({**outputs, LOGITS: cosines * self._side.scale + self._side.bias})

    def _best_of(self, outputs: Compared) -> Compared:
        images = outputs[EMBEDDING].astype(np.float64)
        cosines = images @ self._side.vectors.T / np.linalg.norm(images, axis=1, keepdims=True)
        return self.labelling.best_of({**outputs, LOGITS: cosines * self._side.scale + self._side.bias})
