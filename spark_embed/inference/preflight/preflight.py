"""One task before the first wave: model, device, dtype, parity; its answers bind the whole run.

So that nothing else has to learn from an executor what will run there. What the task does is in probe.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.preflight.probe import ProbeOptions, probe
from spark_embed.inference.preflight.rows import UnreachableError
from spark_embed.inference.preflight.sample import SampleRow
from spark_embed.models import Recipe
from spark_embed.spark.tasks import run_tasks


@dataclass(frozen=True)
class Preflight:
    """What the executors said.

    Attributes:
        recipe: the run's recipe with dtype, commit and the weights' hash resolved, and with what the model
            takes and gives. Its device is what was wanted: each worker takes the best that its machine has.
        codes: all that errors of its rows may have.
        model: what metadata.json says of the model; `jpeg_scaling` is the `FeedOptions.min_edge` of the run.
        parity: see `spark_embed.inference.preflight.parity.Parity`, as a dict; `rejected` says which
            precision was tried first and fell below the limit, None for none; `jpeg_scaling` why large
            JPEGs are scaled or not. With n_images 0 nothing could be compared, or nothing was to be.
        batch_size: images in a forward pass: what was wanted, or found.
        row_s: seconds that a row will take one task, about; None where there was no image to try.
        unread: why the first of the images could not be read, where none could.
        unused_gpu: why the model ran on the CPU, though Spark gave the task a GPU; None where it did not.
        versions: of the packages that decide what a vector is, on the executor; "unknown" for a copy
            that came without its metadata.
    """

    recipe: Recipe
    codes: tuple[str, ...]
    model: dict[str, Any]
    parity: dict[str, Any]
    batch_size: int
    row_s: float | None
    unread: str | None
    unused_gpu: str | None
    versions: dict[str, str]


def run_preflight(
    spark: SparkSession,
    sample: Sequence[SampleRow],
    recipe: Recipe,
    options: FeedOptions,
    wanted: ProbeOptions,
) -> Preflight:
    """Load the model in one task and, if it has a reference, compare it with that on `sample`.

    dtype "auto" takes the fast precision of the device, unless that brings a vector of the sample below
    the smallest cosine that is wanted, or no image of the sample can be compared: then float32.

    Raises:
        ModelError: the model cannot be used; the text is what the executor found.
        UnreachableError: the executor cannot read where the references of the sample point.
    """
    (answer,) = run_tasks(spark, lambda part: probe(part, recipe, options, wanted), [sample])
    if "unreachable" in answer:
        raise UnreachableError(answer["unreachable"])
    recipe, codes = Recipe.from_dict(answer.pop("recipe")), tuple(answer.pop("codes"))
    return Preflight(recipe, codes, **answer)
