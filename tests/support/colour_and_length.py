"""A kind of model that no engine knows: an image's mean colour, and the length of its caption.

Two results, one of them of an own column. The colour is missing where there is no image, the length where the
caption is null; `KIND` names it to a recipe.
"""

from dataclasses import replace

import numpy as np

from spark_embed.errors import RowError
from spark_embed.models import Inputs, Prediction, Recipe, Takes
from spark_embed.schema import Field, Result

KIND = "support.colour_and_length:ColourAndLength"


class ColourAndLength:
    """Implements `spark_embed.models.Model` without torch."""

    takes = Takes(image="pixels", columns=("caption",))
    gives = (
        Result("mean_colour", (Field("mean_colour", "vector"),)),
        Result("length", (Field("length", "int"), Field("first_word", "string"))),
    )
    codes = frozenset({"missing_value"})
    reference = None

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = replace(recipe, device="cpu", dtype="float32")

    def describe(self):
        return {
            "name": "colour-and-length",
            "source": self.recipe.source,
            "device": "cpu",
            "dtype": "float32",
        }

    def prepare(self, inputs: Inputs):
        colour = inputs.error or inputs.image.mean(axis=(0, 1))
        caption = inputs.columns["caption"]
        if caption is None and inputs.error:
            raise inputs.error  # nothing can be made of it
        return colour, RowError("missing_value", "the caption is null") if caption is None else caption

    def predict(self, batch):
        colours = [np.zeros(3) if isinstance(colour, RowError) else colour for colour, _ in batch]
        captions = ["" if isinstance(caption, RowError) else caption for _, caption in batch]
        failures = {
            "mean_colour": {row: one for row, (one, _) in enumerate(batch) if isinstance(one, RowError)},
            "length": {row: one for row, (_, one) in enumerate(batch) if isinstance(one, RowError)},
        }
        columns = {
            "mean_colour": np.array(colours, dtype=np.float32),
            "length": [len(caption) for caption in captions],
            "first_word": [caption.split(" ")[0] for caption in captions],
        }
        return Prediction(columns, failures)
