"""What preflight's one task does in its worker: load the model, compare it, time it, describe it."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Any

import pyarrow as pa

from spark_embed.errors import ERROR_CODES, ModelError, RowError
from spark_embed.inference.feed import DEFAULT_BATCH_SIZE, FeedOptions
from spark_embed.inference.preflight.jpeg_scaling import JpegScaling, choose_scaling, smallest_edge
from spark_embed.inference.preflight.parity import (
    NO_REFERENCE,
    Parity,
    Sampled,
    find_shortfall,
    measure_parity,
    predict_references,
)
from spark_embed.inference.preflight.rows import UnreachableError, prepare_rows, prepare_without_sample
from spark_embed.inference.preflight.sample import SampleRow, read_own_columns
from spark_embed.inference.preflight.timing import Pace, estimate_pace, find_batch_size, measure_pace
from spark_embed.inference.task import (
    begin_task,
    end_task,
    explain_unused_gpu,
    load_worker_model,
    placed,
    task_cpus,
)
from spark_embed.models import Compared, Model, Prepared, Recipe, TableModel, resolved

# Of the rows that a model elsewhere is asked about before the run: each may cost money.
_MAX_TRIED = 8

# Of rows that are predicted to see how long it takes.
_TIMED_BATCHES = 8

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


@dataclass(frozen=True)
class ProbeOptions:
    """What preflight is to find out.

    Attributes:
        n_images: images to compare with plain transformers.
        min_cosine: smallest cosine that counts as equal.
        batch_size: images in a forward pass; None to find a good number.
        jpeg_scaling: decode large JPEGs at a smaller scale; None to find out whether that keeps parity.
    """

    n_images: int
    min_cosine: float
    batch_size: int | None = DEFAULT_BATCH_SIZE
    jpeg_scaling: bool | None = False


def probe(
    rows: Sequence[SampleRow], recipe: Recipe, options: FeedOptions, wanted: ProbeOptions
) -> dict[str, Any]:
    """Load, compare, time, describe; returns the fields of a `Preflight` as JSON values, or "unreachable".

    Raises:
        ModelError: the model cannot be used.
    """
    with placed(recipe) as here:
        answer = _probe(rows, here, options, wanted)
    if "recipe" in answer:  # every task finds its own device
        answer["recipe"]["device"] = recipe.device
    return answer


def _probe(
    rows: Sequence[SampleRow], recipe: Recipe, options: FeedOptions, wanted: ProbeOptions
) -> dict[str, Any]:
    recipe, compile_wanted = replace(recipe, compile_rows=None), recipe.compile_rows is not None
    errors: list[RowError] = []
    try:
        model, _ = load_worker_model(recipe)
        if isinstance(model, TableModel):
            return _probe_table(model, rows, options, wanted)
        # At least one, if only to see that it can be fetched.
        min_edge = None if wanted.jpeg_scaling is False else smallest_edge(model)
        sampled = prepare_rows(model, rows, options, errors, min_edge)
        if model.takes.ahead:
            return _probe_elsewhere(model, sampled, options, wanted, errors)
        sample = list(islice(sampled, max(1, wanted.n_images)))
        compared = sample[: wanted.n_images]
        references = predict_references(model, compared)
        model, parity, rejected = _choose_dtype(recipe, model, compared, references, wanted)
        scaling = choose_scaling(model, compared, references, wanted.jpeg_scaling, wanted.min_cosine)
        if scaling.min_edge:
            sample = [item.scaled or item for item in sample]
            compared = sample[: wanted.n_images]
            parity = measure_parity(model, compared, references)
        elif any(item.scaled for item in sample):  # what is shown is of the run's own decoder
            sample = list(islice(prepare_rows(model, rows, options, [], None), max(1, wanted.n_images)))
            compared = sample[: wanted.n_images]
            parity = measure_parity(model, compared)
        prepared = [item.prepared for item in sample] or prepare_without_sample(model)
        pace = _measure_pace(model, prepared, wanted.batch_size) if prepared else None
        compiled = None
        if compile_wanted and pace:
            model, pace, compiled = _compile(recipe.device, model, prepared, pace.batch_size)
            parity = measure_parity(model, compared, references)
    except UnreachableError as exc:
        return {"unreachable": str(exc)}
    return {
        **_described(model, compiled, scaling.min_edge),
        "parity": {
            **_told(parity),
            "rejected": rejected,
            "jpeg_scaling": {
                "min_edge": scaling.min_edge,
                "n_images": scaling.parity.n_images,
                **_measures(scaling.parity),
                "why_not": scaling.why_not,
            },
        },
        "batch_size": pace.batch_size if pace else wanted.batch_size or options.batch_size,
        "row_s": _row_s(pace, sample, model.recipe.device) if pace else None,
        "unread": str(errors[0]) if errors and not sample else None,
    }


def _probe_elsewhere(
    model: Model,
    sampled: Iterator[Sampled],
    options: FeedOptions,
    wanted: ProbeOptions,
    errors: list[RowError],
) -> dict[str, Any]:
    """Probe a model whose work is done elsewhere (`Takes.ahead`): one row, or some until one has all results.

    Raises:
        ModelError: none of them has.
    """
    begin_task(model)
    row_s: float | None = None
    n_tried = 0
    try:
        for item in islice(sampled, _MAX_TRIED):
            n_tried += 1
            prediction = model.predict([item.prepared])
            failures = [found[0] for found in prediction.failures.values() if 0 in found]
            if not failures:
                row_s = prediction.row_s
                break
            errors += failures[:1]
        else:
            if n_tried:
                raise ModelError(f"none of the first {n_tried} rows has its results; the last: {errors[-1]}")
    finally:
        end_task(model)
    scaling = JpegScaling(None, why_not="images are not decoded here")
    return {
        **_described(model, None, None),
        "parity": {**_told(NO_REFERENCE), "rejected": None, "jpeg_scaling": asdict(scaling)},
        "batch_size": wanted.batch_size or options.batch_size,
        "row_s": row_s,
        "unread": str(errors[0]) if errors and not n_tried else None,
    }


def _probe_table(
    model: TableModel, rows: Sequence[SampleRow], options: FeedOptions, wanted: ProbeOptions
) -> dict[str, Any]:
    """Probe a model of tables: it is timed as tasks call it, on the sample's rows over and over."""
    batch_size = wanted.batch_size or options.batch_size
    row_s = None
    try:
        sample = list(read_own_columns(rows, model.takes.columns))
    except OSError as exc:
        raise UnreachableError(str(exc)) from exc
    if sample:
        n_rows = _TIMED_BATCHES * batch_size
        times = math.ceil(n_rows / len(sample))
        columns = {name: pa.array([row[name] for row in sample] * times) for name in model.takes.columns}
        started = time.perf_counter()
        model.predict_table(columns, times * len(sample), batch_size)
        row_s = (time.perf_counter() - started) / (times * len(sample))
    scaling = JpegScaling(None, why_not="there are no images")
    return {
        **_described(model, None, None),
        "parity": {**_told(NO_REFERENCE), "rejected": None, "jpeg_scaling": asdict(scaling)},
        "batch_size": batch_size,
        "row_s": row_s,
        "unread": None,
    }


def _described(model: Model, compiled: dict[str, float] | None, min_edge: int | None) -> dict[str, Any]:
    device = model.recipe.device.partition(":")[0]
    return {
        "recipe": asdict(resolved(model)),
        "codes": sorted(model.codes | (ERROR_CODES if model.takes.image else frozenset())),
        "model": {**model.describe(), "device": device, "compiled": compiled, "jpeg_scaling": min_edge},
        "unused_gpu": explain_unused_gpu(device),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
    }


def _told(parity: Parity) -> dict[str, Any]:
    values = {
        **({} if parity.what == "images" else {"what": parity.what}),
        "n_images": parity.n_images,
        **_measures(parity),
        "max_pixel_difference": parity.max_pixel_difference,
    }
    return values if parity.unmeasured is None else {**values, "unmeasured": parity.unmeasured}


def _measures(parity: Parity) -> dict[str, Any]:
    """Return what a parity says of results, that of labels only where there are some."""
    measures: dict[str, Any] = {"min_cosine": parity.min_cosine}
    if parity.n_same_label is not None:
        measures["n_same_label"] = parity.n_same_label
        measures["max_score_difference"] = parity.max_score_difference
    return measures if parity.by_result is None else {**measures, "by_result": parity.by_result}


def _choose_dtype(
    recipe: Recipe, model: Model, compared: Sequence[Sampled], references: Compared, wanted: ProbeOptions
) -> tuple[Model, Parity, dict[str, Any] | None]:
    """Return the model in the precision that runs, its parity, and what was rejected if "auto" was."""
    parity = measure_parity(model, compared, references)
    is_chosen = recipe.dtype != "auto" or model.recipe.dtype == "float32" or model.reference is None
    if is_chosen or not _is_in_doubt(parity, wanted):
        return model, parity, None
    rejected = {"dtype": model.recipe.dtype, **_measures(parity)}
    model, _ = load_worker_model(replace(recipe, dtype="float32"))
    parity_of_float32 = measure_parity(model, compared, references)
    return model, parity_of_float32, rejected if parity.n_images else None


def _is_in_doubt(parity: Parity, wanted: ProbeOptions) -> bool:
    """Say whether a precision may be too low: it fell short, or was to be measured and could not be."""
    if wanted.n_images == 0:
        return False
    return not parity.n_images or find_shortfall(asdict(parity), wanted.min_cosine) is not None


def _measure_pace(model: Model, prepared: Sequence[Prepared], batch_size: int | None) -> Pace:
    """Time the model, with a batch size that is found if none is wanted."""
    if batch_size is None:
        return find_batch_size(model, prepared)
    return replace(estimate_pace(model, prepared, batch_size), batch_size=batch_size)


def _compile(
    device: str, model: Model, prepared: Sequence[Prepared], batch_size: int
) -> tuple[Model, Pace, dict[str, float]]:
    """Load the model again, compiled for its batch size; return it, its pace, what that took and gained."""
    before = measure_pace(model, prepared, batch_size)
    started = time.perf_counter()
    compiled, _ = load_worker_model(replace(model.recipe, device=device, compile_rows=batch_size))
    seconds = time.perf_counter() - started
    pace = measure_pace(compiled, prepared, batch_size)
    gained = {"seconds": round(seconds, 1), "speedup": round(before.predict_s / pace.predict_s, 2)}
    return compiled, pace, gained


def _row_s(pace: Pace, sample: Sequence[Sampled], device: str) -> float | None:
    """Return the seconds that a row will take one task."""
    if not sample:
        return None
    prepare_s = statistics.median(item.prepare_s for item in sample)
    return pace.row_s(prepare_s, task_cpus() or 1, device)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a copy without its metadata: --py-files, PYTHONPATH
        return "unknown"
