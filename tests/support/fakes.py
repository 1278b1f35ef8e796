"""The one fake of the model seam: its vectors show which image they are of and which batch they were in."""

from collections.abc import Callable

import numpy as np

from spark_embed.errors import ImageError
from spark_embed.models import Prediction, Recipe


class MeanColour:
    """A `Model` whose vector is the image's mean red, green and blue, and the size of its batch.

    Args:
        during_prepare: called with the pixels, on a decode thread.
        during_predict: called with the batch, before it is counted.
        unusable: says of a mean colour whether `predict` marks its row as failed.
    """

    recipe = Recipe()
    takes, gives = recipe.takes, recipe.gives
    codes = frozenset()
    reference = None

    def __init__(
        self,
        during_prepare: Callable = lambda pixels: None,
        during_predict: Callable = lambda batch: None,
        unusable: Callable = lambda colour: False,
    ) -> None:
        self.batch_sizes: list[int] = []
        self._during_prepare = during_prepare
        self._during_predict = during_predict
        self._unusable = unusable

    def prepare(self, inputs):
        pixels = inputs.image
        self._during_prepare(pixels)
        return pixels.mean(axis=(0, 1))

    def predict(self, batch):
        self._during_predict(batch)
        self.batch_sizes.append(len(batch))
        vectors = [[*colour, len(batch)] for colour in batch]
        failures = {
            row: ImageError("bad_vector") for row, colour in enumerate(batch) if self._unusable(colour)
        }
        return Prediction({"embedding": np.array(vectors, dtype=np.float32)}, {"embedding": failures})
