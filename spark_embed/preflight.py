"""One task before the first wave: model, device, dtype, parity; its answers bind the whole run.

Knows Spark and the model, so that nothing else has to learn from an executor what will run there.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from spark_embed.errors import ImageError, SparkEmbedError, fatal_error_named
from spark_embed.feed import FeedOptions
from spark_embed.fetch import Buffer, Reference, make_fetch, make_locate
from spark_embed.models import Recipe
from spark_embed.schema import IMAGE
from spark_embed.udf import iterate_references, load_worker_model

if TYPE_CHECKING:
    from spark_embed.models.image_embedder import ImageEmbedder
    from spark_embed.parity import Parity

MAX_SAMPLE_BYTES = 64 << 20
"""Encoded size beyond which an image is not taken to compare precisions with."""

_PACKAGES = (
    "spark_embed",
    "pyspark",
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "pillow",
    "simplejpeg",
    "numpy",
    "pyarrow",
    "pandas",
)

Probe = Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]


@dataclass(frozen=True)
class ParityOptions:
    """How many images to compare, and the smallest cosine that counts as equal."""

    n_images: int
    min_cosine: float


class UnreachableError(Exception):
    """A worker cannot read where the references point; another transport may do."""


@dataclass(frozen=True)
class Preflight:
    """What the executors said.

    Attributes:
        recipe: the run's recipe with device, dtype, commit and the weights' hash resolved.
        model: what metadata.json says of the model.
        parity: see `spark_embed.parity.Parity`, as a dict; `rejected` says which
            precision was tried first and fell below the limit, None for none. With n_images 0 nothing
            could be compared, or nothing was to be.
        versions: of the packages that decide what a vector is, on the executor; "unknown" for a copy
            that came without its metadata.
    """

    recipe: Recipe
    model: dict[str, Any]
    parity: dict[str, Any]
    versions: dict[str, str]


def run_preflight(
    spark: SparkSession, sample: DataFrame, recipe: Recipe, options: FeedOptions, parity: ParityOptions
) -> Preflight:
    """Load the model in one task and compare it with plain transformers on `sample` (references).

    dtype "auto" takes the fast precision of the device, unless that brings a vector of the sample below
    the smallest cosine that is wanted, or no image of the sample can be compared: then float32.

    Raises:
        ModelError: the model cannot be used; the text is what the executor found.
        UnreachableError: the executor cannot read where the references of the sample point.
    """
    probe = _make_probe(recipe, options, parity)
    answer = _run_one_task(sample, probe)
    if answer is None:  # a data set without rows
        answer = _run_one_task(spark.range(0, 1, 1, 1), probe)
    if answer is None:
        raise RuntimeError("preflight: a task over one row gave no answer")
    if "unreachable" in answer:
        raise UnreachableError(answer["unreachable"])
    if "fatal" in answer:
        raise fatal_error_named(answer["fatal"])(answer["text"])
    return Preflight(Recipe(**answer.pop("recipe")), **answer)


def _run_one_task(frame: DataFrame, probe: Probe) -> dict[str, Any] | None:
    rows = frame.coalesce(1).mapInArrow(probe, "answer string").collect()
    return json.loads(rows[0]["answer"]) if rows else None


def _make_probe(recipe: Recipe, options: FeedOptions, parity: ParityOptions) -> Probe:
    def probe(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        yield pa.RecordBatch.from_pydict({"answer": [json.dumps(_probe(batches, recipe, options, parity))]})

    return probe


def _probe(
    batches: Iterable[pa.RecordBatch], recipe: Recipe, options: FeedOptions, wanted: ParityOptions
) -> dict[str, Any]:
    """Run on an executor: load, compare, describe. A fatal error is an answer, so Spark does not retry."""
    from spark_embed.models.image_embedder import describe
    from spark_embed.parity import measure_parity, prepare_sample

    columns = (batch.column(IMAGE) for batch in batches if IMAGE in batch.schema.names)
    images = _fetched(iterate_references(columns), options)
    try:
        model = _load(recipe)
        # At least one, if only to see that it can be fetched.
        sample = list(islice(prepare_sample(model, images, options.max_pixels), max(1, wanted.n_images)))
        sample = sample[: wanted.n_images]
        parity = measure_parity(model, sample)
        rejected = None
        if recipe.dtype == "auto" and model.recipe.dtype != "float32" and _is_in_doubt(parity, wanted):
            if parity.min_cosine is not None:
                rejected = {"dtype": model.recipe.dtype, "min_cosine": parity.min_cosine}
            model = _load(replace(recipe, dtype="float32"))
            parity = measure_parity(model, sample)
    except _FetchError as exc:
        return {"unreachable": str(exc)}
    except SparkEmbedError as exc:
        return {"fatal": type(exc).__name__, "text": str(exc)}
    return {
        # Every task finds its own GPU's number.
        "recipe": asdict(replace(model.recipe, device=model.recipe.device.partition(":")[0])),
        "model": describe(model),
        "parity": {**asdict(parity), "rejected": rejected},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
    }


def _is_in_doubt(parity: Parity, wanted: ParityOptions) -> bool:
    """Say whether a precision may be too low: it fell short, or was to be measured and could not be."""
    if wanted.n_images == 0:
        return False
    return parity.min_cosine is None or not parity.min_cosine >= wanted.min_cosine  # NaN falls short, too


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a copy without its metadata: --py-files, PYTHONPATH
        return "unknown"


def _load(recipe: Recipe) -> ImageEmbedder:
    model, _ = load_worker_model(recipe)
    return cast("ImageEmbedder", model)  # parity needs its processor, which is not in the seam


class _FetchError(Exception):
    """The worker cannot read where a reference points."""


def _fetched(references: Iterator[Reference], options: FeedOptions) -> Iterator[Buffer]:
    """Yield the bytes of the references that can be fetched; the others become error rows later."""
    locate, fetch = make_locate(options.fetch), make_fetch(options.fetch)
    for reference in references:
        try:
            data = fetch(locate(reference))
        except ImageError:
            continue
        except OSError as exc:
            raise _FetchError(str(exc)) from exc
        if len(data) <= MAX_SAMPLE_BYTES:
            yield data
