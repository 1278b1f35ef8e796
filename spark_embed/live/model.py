"""A loaded model: an image or a text -> what the model takes -> an answer of each.

The way from bytes to vector is the batch job's: `spark_embed.inference.row`. Knows no HTTP and no event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from spark_embed.errors import ConfigError, ImageError, ModelError, RowError, one_line
from spark_embed.inference.decode import MAX_PIXELS, InProcessDecoder
from spark_embed.inference.feed import DEFAULT_BATCH_SIZE
from spark_embed.inference.row import Item, make_item, predict_items
from spark_embed.models import Inputs, Recipe, load_model
from spark_embed.models.directory.model_folder import ModelFolder
from spark_embed.models.registry import REMOTE
from spark_embed.schema import vector_columns

DEFAULT_BATCH_WAIT_S = 0.003
"""How long a batch that is not full waits for images that are being decoded."""


@dataclass(frozen=True)
class Wanted:
    """Which model, and how its images are decoded.

    Attributes:
        recipe: of the model.
        max_pixels: of an image.
        decode_timeout_s: after which an image is given up.
        allow_truncated: decode truncated images as far as they go.
        min_edge: see `spark_embed.inference.decode.open_image`.
        check: is given what the loaded model says of itself, and raises if it is not the one that was meant.
    """

    recipe: Recipe
    max_pixels: int = MAX_PIXELS
    decode_timeout_s: float = 30.0
    allow_truncated: bool = False
    min_edge: int | None = None
    check: Callable[[Mapping[str, Any]], None] = lambda about: None


@dataclass(frozen=True)
class Ready:
    """What is prepared for the device, and how many bytes it takes."""

    prepared: Any
    n_bytes: int


@dataclass
class Answer:
    """What the model gave of one image or text.

    Attributes:
        values: by column, of the results that are there; a vector is float32 (dim,).
        errors: by result, why it is not there.
    """

    values: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, RowError] = field(default_factory=dict)

    @property
    def error(self) -> RowError | None:
        """Why there is no result at all; None if there is one."""
        return None if self.values else next(iter(self.errors.values()), None)


class LiveModel:
    """A model that is loaded and warm.

    Attributes:
        name: that it has for people, and in metrics.
        about: what it says of itself; metadata.json of a batch run says the same.
        takes_image, takes_text: what a request may bring.
        vectors: the columns of its results that are vectors.
        result_of: of each column the result that it belongs to, by which errors are named.
        load_s: seconds that loading took.
        batch_size, batch_wait_s: what it wants itself, where nobody says otherwise.
        decode_timeout_s: after which an image is given up.
    """

    def __init__(self, wanted: Wanted) -> None:
        """Load the model (slow).

        Raises:
            ConfigError: a kind of model that cannot be live.
            ModelError: it cannot be loaded, or it is not the one that was meant.
        """
        started = time.perf_counter()
        if wanted.recipe.kind == REMOTE:
            raise ConfigError(
                f"--model_directory {wanted.recipe.source}: is a remote API, which is a service already"
            )
        self._model, _ = load_model(wanted.recipe)
        model = self._model
        self.load_s = time.perf_counter() - started
        self.decode_timeout_s = wanted.decode_timeout_s
        if len(model.takes.columns) > 1:
            raise ConfigError(
                f"--model_directory {wanted.recipe.source}: takes the columns "
                f"{', '.join(model.takes.columns)}; the service has one image and one text for each row"
            )
        self._text_column = next(iter(model.takes.columns), None)
        self.about = {**model.describe(), "jpeg_scaling": wanted.min_edge}
        wanted.check(self.about)
        self.name = str(self.about.get("name") or wanted.recipe.source)
        self.takes_image = model.takes.image is not None
        self.takes_text = self._text_column is not None
        self.vectors = vector_columns(model.gives)
        self.result_of = {column.name: result.name for result in model.gives for column in result.fields}
        self.batch_size, self.batch_wait_s = DEFAULT_BATCH_SIZE, DEFAULT_BATCH_WAIT_S
        if isinstance(model, ModelFolder):
            self.batch_size, self.batch_wait_s = model.batch_size, model.batch_wait_s
        self._decoder = InProcessDecoder(wanted.max_pixels, wanted.allow_truncated, wanted.min_edge)

    def prepare(
        self,
        image: bytes | RowError | None,
        text: str | None,
        hold: Callable[[int], AbstractContextManager[None]],
    ) -> Ready | Answer:
        """Return what the model makes of an image and a text ahead of the device; runs on decode threads.

        Or the answer, where that is an error already.

        Args:
            image: encoded, or why it is not here; None for none.
            text: to go with it, or alone.
            hold: as `make_item`.
        """

        def fetch() -> bytes:
            if isinstance(image, RowError):
                raise image
            if image is None:
                raise ImageError("null_bytes", "the request has no image")
            return image

        columns = {self._text_column: text} if self._text_column else None
        item = make_item(self._model, fetch, columns, self._decoder, hold)
        return self.failed(item.error) if item.error else Ready(item, n_bytes_of(item.prepared))

    def failed(self, error: RowError) -> Answer:
        """Return the answer of a row that has no result."""
        return Answer({}, {result.name: error for result in self._model.gives})

    def predict(self, items: Sequence[Item]) -> list[Answer]:
        """Run a batch on the device; one answer for each item, in order. One call at a time.

        Raises:
            Exception: whatever the model raises: the batch has no answers.
        """
        outcomes = predict_items(items, self._model)
        answers = [Answer() for _ in items]
        for result in self._model.gives:
            missing = outcomes.errors[result.name]
            given = [row for row, error in enumerate(missing) if error is None]
            for row, error in enumerate(missing):
                if error is not None:
                    answers[row].errors[result.name] = error
            for field_ in result.fields:
                for row, value in zip(given, outcomes.columns[field_.name], strict=True):
                    answers[row].values[field_.name] = value
        return answers

    def try_grey(self, *n_images: int) -> float:
        """Run grey images through all that a request goes through, in batches of so many; return the seconds.

        Raises:
            ModelError: the model fails at them.
        """
        started = time.perf_counter()
        pixels = np.full((64, 64, 3), 128, dtype=np.uint8) if self.takes_image else None
        columns = {self._text_column: "a grey square"} if self._text_column else {}
        try:
            item = Item(self._model.prepare(Inputs(pixels, None, columns)))
            for n in dict.fromkeys(n_images):
                self.predict([item] * n)
        except Exception as exc:  # any at all: it is a model's code
            raise ModelError(
                f"{self.name}: fails at a grey image: {type(exc).__name__}: {one_line(exc)}"
            ) from exc
        return time.perf_counter() - started


def n_bytes_of(prepared: Any) -> int:
    """Return how much memory what `Model.prepare` gave takes, about: arrays, tensors and images in it."""
    if isinstance(prepared, Mapping):
        return sum(map(n_bytes_of, prepared.values()))
    if isinstance(prepared, (tuple, list)):
        return sum(map(n_bytes_of, prepared))
    if isinstance(prepared, Image.Image):
        return prepared.width * prepared.height * len(prepared.getbands())
    if isinstance(prepared, (str, bytes)):
        return len(prepared)
    return int(getattr(prepared, "nbytes", 0))
