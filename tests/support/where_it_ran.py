"""A kind of model that tells where it ran: device, process, task, and when.

`KIND` names it to a recipe. It takes whatever GPU it is told for one, as no test has any.
"""

import os
import time
from dataclasses import replace

from pyspark import TaskContext

from spark_embed.models import Inputs, Prediction, Recipe, Takes
from spark_embed.schema import Field, Result

KIND = "support.where_it_ran:WhereItRan"
IMAGE_S = 0.02


class WhereItRan:
    """Implements `spark_embed.models.Model` without torch; an image takes `IMAGE_S`."""

    takes = Takes(image="pixels")
    gives = (
        Result(
            "place",
            (
                Field("device", "string"),
                Field("pid", "int"),
                Field("task", "bigint"),
                Field("at_s", "double"),
            ),
        ),
    )
    codes = frozenset()
    reference = None

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = replace(recipe, device=recipe.device.replace("auto:", "cuda:"), dtype="float32")

    def describe(self):
        return {"name": "where-it-ran", "source": "none", "device": self.recipe.device, "dtype": "float32"}

    def prepare(self, inputs: Inputs):
        return inputs.image

    def predict(self, batch):
        time.sleep(IMAGE_S * len(batch))
        context, n_rows = TaskContext.get(), len(batch)
        values = {
            "device": self.recipe.device,
            "pid": os.getpid(),
            "task": context.taskAttemptId() if context else -1,
            "at_s": time.monotonic(),
        }
        return Prediction({name: [value] * n_rows for name, value in values.items()})
