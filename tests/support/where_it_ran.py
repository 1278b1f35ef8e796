"""A kind of model that tells where it ran: executor, device, process, task, and when.

`KIND` names it to a recipe. It takes whatever GPU it is told for one, as no test has any; `FIRST_KIND` does
that only on the first executor that asks, and is busy there for as long as the run lasts.
"""

import os
import time
from dataclasses import replace

from pyspark import TaskContext

from spark_embed.inference.task import executor_name
from spark_embed.models import Inputs, Prediction, Recipe, Takes
from spark_embed.schema import Field, Result

KIND = "support.where_it_ran:WhereItRan"
FIRST_KIND = "support.where_it_ran:OnFirstExecutor"
FIRST_EXECUTOR = "FIRST_EXECUTOR"
"""Environment variable of the workers: a file that says which executor that is."""

IMAGE_S = 0.02
_VERY_LONG_S = 240


class WhereItRan:
    """Implements `spark_embed.models.Model` without torch; an image takes `IMAGE_S`."""

    takes = Takes(image="pixels")
    gives = (
        Result(
            "place",
            (
                Field("executor", "string"),
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
        device = f"cuda:{recipe.device.partition(':')[2]}"
        self.recipe = replace(recipe, device=device, dtype="float32")

    def describe(self):
        return {"name": "where-it-ran", "source": "none", "device": self.recipe.device, "dtype": "float32"}

    def prepare(self, inputs: Inputs):
        return inputs.image

    def predict(self, batch):
        time.sleep(IMAGE_S * len(batch))
        context, n_rows = TaskContext.get(), len(batch)
        values = {
            "executor": executor_name(),
            "device": self.recipe.device,
            "pid": os.getpid(),
            "task": context.taskAttemptId() if context else -1,
            "at_s": time.monotonic(),
        }
        return Prediction({name: [value] * n_rows for name, value in values.items()})


class OnFirstExecutor(WhereItRan):
    """The same; on all executors but one it looks for a GPU, and there is none."""

    def __init__(self, recipe: Recipe) -> None:
        from spark_embed.models.device import resolve_device

        try:
            with open(os.environ[FIRST_EXECUTOR], "x") as file:
                file.write(executor_name())
        except FileExistsError:
            with open(os.environ[FIRST_EXECUTOR]) as file:
                if file.read() != executor_name():
                    resolve_device(recipe.device)
        super().__init__(recipe)

    def predict(self, batch):
        if TaskContext.get().partitionId():  # preflight's is 0
            time.sleep(_VERY_LONG_S)
        return super().predict(batch)
