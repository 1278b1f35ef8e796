"""A loaded model as the service uses it: what a request brings -> what the model takes -> an answer of each.

The way from bytes to vector is the batch job's: `spark_embed.inference.row`. Knows no HTTP and no event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spark_embed.errors import ConfigError, ImageError, ModelError, RowError, one_line
from spark_embed.inference.decode import MAX_PIXELS, InProcessDecoder
from spark_embed.inference.decode.pool import DecodeMemory
from spark_embed.inference.feed import DEFAULT_BATCH_SIZE
from spark_embed.inference.row import Item, make_item, predict_items
from spark_embed.models import Inputs, Recipe, load_model
from spark_embed.models.directory.model_folder import ModelFolder
from spark_embed.models.registry import REMOTE
from spark_embed.schema import vector_columns

DEFAULT_BATCH_WAIT_S = 0.003
"""How long a batch that is not full waits for images that are being decoded."""

_DECODE_MEMORY_BYTES = 512 << 20


@dataclass(frozen=True)
class Wanted:
    """Which model, and how its images are decoded.

    Attributes:
        recipe: of the model.
        max_pixels: of an image.
        allow_truncated: decode truncated images as far as they go.
        min_edge: see `spark_embed.inference.decode.open_image`.
        check: is given what the loaded model says of itself, and raises if it is not the one that was meant.
    """

    recipe: Recipe
    max_pixels: int = MAX_PIXELS
    allow_truncated: bool = False
    min_edge: int | None = None
    check: Callable[[Mapping[str, Any]], None] = lambda about: None


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
        load_s, warmup_s: seconds that loading and the first batches took.
        batch_size, batch_wait_s: what it wants itself, where nobody says otherwise.
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
        self.warmup_s = 0.0
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
        self._memory = DecodeMemory(_DECODE_MEMORY_BYTES)

    def prepare(self, image: bytes | Callable[[], bytes] | None, text: str | None) -> Item | Answer:
        """Return what the model makes of an image and a text ahead of the device; runs on decode threads.

        Or the answer, where that is an error already.

        Args:
            image: encoded, or what fetches it and may raise an `ImageError`; None for none.
            text: to go with it, or alone.
        """

        def fetch() -> bytes:
            if image is None:
                raise ImageError("null_bytes", "the request has no image")
            return image() if callable(image) else image

        columns = {self._text_column: text} if self._text_column else None
        item = make_item(self._model, fetch, columns, self._decoder, self._memory.reserve)
        if item.error is None:
            return item
        return Answer({}, {result.name: item.error for result in self._model.gives})

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

    def warm_up(self, batch_size: int) -> None:
        """Run a grey image through all that a request goes through, alone and as a full batch.

        Raises:
            ModelError: the model fails at it.
        """
        started = time.perf_counter()
        with _failing(self.name):
            item = self._grey()
            for n_items in dict.fromkeys((1, batch_size)):
                self.predict([item] * n_items)
        self.warmup_s = time.perf_counter() - started

    def check(self) -> None:
        """Run one grey image: does the model still work?

        Raises:
            ModelError: it does not.
        """
        with _failing(self.name):
            self.predict([self._grey()])

    def _grey(self) -> Item:
        pixels = np.full((64, 64, 3), 128, dtype=np.uint8)
        columns = {self._text_column: "a grey square"} if self._text_column else {}
        return Item(self._model.prepare(Inputs(pixels if self.takes_image else None, None, columns)))


@contextmanager
def _failing(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        raise ModelError(f"{name}: fails at a grey image: {type(exc).__name__}: {one_line(exc)}") from exc
