"""Tries a folder with code before a run, without Spark: what spark-embed check-model says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from spark_embed.errors import ModelError
from spark_embed.models import Inputs, Prediction, Recipe
from spark_embed.models.directory.model_folder import ModelFolder
from spark_embed.models.directory.recognise import check_folder
from spark_embed.schema import EMBEDDING

_MIN_COSINE = 0.999
_MAX_SCORE_DIFFERENCE = 1e-2

Pixels = npt.NDArray[np.uint8]


def check_model(recipe: Recipe) -> Iterator[str]:
    """Load a folder, encode two images alone and together, and yield what is found, line by line.

    Raises:
        ModelError: something is wrong; its text says what, or how much the lines have said.
    """
    check_folder(recipe)
    started = time.perf_counter()
    model = ModelFolder(recipe)
    config, loaded_s = model.config, time.perf_counter() - started
    yield (
        f"{config.name} {config.version} ({config.metadata.type}): loaded and warmed up in {loaded_s:.1f} s "
        f"on {model.recipe.device}, batches of up to {model.batch_size}"
    )
    started = time.perf_counter()
    problems, shown = _try_images(model)
    row_s = (time.perf_counter() - started) / 4
    yield f"encoded 2 images in batches of 1 and 2, {row_s:.3f} s an image: {shown}"
    yield from (f"WRONG {problem}" for problem in problems)
    if problems:
        raise ModelError(f"--model_directory {recipe.source}: {len(problems)} wrong, see above")


def _try_images(model: ModelFolder) -> tuple[list[str], str]:
    """Return what is wrong with the results of two images, and what the second one's is."""
    text = model.config.metadata.text_column
    columns = {text: "a photo"} if text else {}
    images = {"a grey image of 8 x 8": _grey(), "an image like a photo, of 640 x 480": _photo()}
    rows = [model.prepare(Inputs(pixels, columns=columns)) for pixels in images.values()]
    together = model.predict(rows)
    problems = []
    for number, (name, row) in enumerate(zip(images, rows, strict=True)):
        alone = model.predict([row])
        for where, prediction, index in (("alone", alone, 0), ("in a batch of 2", together, number)):
            if error := _failure(prediction, index):
                problems.append(f"{name}, {where}: {error}")
        if not _failure(alone, 0) and not _failure(together, number) and _differ(alone, together, number):
            problems.append(f"{name}: its result in a batch of 2 is another than alone")
    return problems, _shown(together)


def _failure(prediction: Prediction, row: int) -> Any:
    (failures,) = prediction.failures.values()
    return failures.get(row)


def _differ(alone: Prediction, together: Prediction, row: int) -> bool:
    if EMBEDDING in alone.columns:
        one, other = (np.asarray(values.columns[EMBEDDING], np.float64) for values in (alone, together))
        lengths = np.linalg.norm(one[0]) * np.linalg.norm(other[row])
        return bool(one[0] @ other[row] < _MIN_COSINE * lengths)
    scores = abs(alone.columns["score"][0] - together.columns["score"][row])
    is_same = alone.columns["label"][0] == together.columns["label"][row]
    return bool(scores > _MAX_SCORE_DIFFERENCE or not is_same)


def _shown(prediction: Prediction) -> str:
    if EMBEDDING in prediction.columns:
        return f"vectors of {np.shape(prediction.columns[EMBEDDING])[1]} values"
    columns = prediction.columns
    return f"the photo's label is {columns['label'][1]!r}, of {len(columns['top_labels'][1] or [])} returned"


def _grey() -> Pixels:
    return np.full((8, 8, 3), 128, dtype=np.uint8)


def _photo() -> Pixels:
    """Return large soft shapes and fine noise, always the same."""
    random = np.random.default_rng(0)
    soft = np.kron(random.integers(40, 216, (6, 8, 3)), np.ones((80, 80, 1)))
    return (soft + random.normal(0, 8, soft.shape)).clip(0, 255).astype(np.uint8)
