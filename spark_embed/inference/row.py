"""One row: its encoded image -> what the model takes; and the rows of a batch -> an outcome of each.

Knows no Spark, no threads and no order: the feed of a task and the service make of a row the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

from spark_embed.errors import ERROR_CODES, ImageError, RowError
from spark_embed.inference.decode import Buffer, Decoder
from spark_embed.inference.fetch.read_ahead import Columns
from spark_embed.models import Inputs, Model, Prepared, Values, take_values


@dataclass
class Outcomes:
    """The outcomes of consecutive rows.

    Attributes:
        columns: by column that the model gives, the values of the rows that have its result, in order.
        errors: by result, one entry per row: None, or why the row lacks it.
        seconds: what these rows cost, by stage; fetch_s and decode_s are thread time and downloads
            overlap, so they may exceed the clock.
        batch_limit: see `Prediction.batch_limit`.
    """

    columns: dict[str, Values]
    errors: dict[str, list[RowError | None]]
    seconds: dict[str, float] = field(default_factory=dict)
    batch_limit: int | None = None

    @property
    def n_rows(self) -> int:
        """Rows, good and bad."""
        return len(next(iter(self.errors.values())))


@dataclass
class Item:
    """One row on its way: what `prepare` gave or why there is nothing, and what that took."""

    prepared: Prepared = None
    error: RowError | None = None
    download_s: float = 0.0
    fetch_s: float = 0.0
    decode_s: float = 0.0


def make_item(
    model: Model,
    fetch: Callable[[], Buffer],
    columns: Columns,
    decoder: Decoder,
    hold: Callable[[int], AbstractContextManager[None]],
) -> Item:
    """Fetch, decode and prepare one row; only a `RowError` is caught.

    Args:
        model: whose row it is.
        fetch: returns the encoded image; is not called for a model that takes none.
        columns: the values of the columns that it takes.
        decoder: opens the image.
        hold: holds so many bytes of memory, within which it is decoded and prepared.
    """
    item = Item()
    started = fetched = time.perf_counter()
    image: Any = None
    box = None
    error: RowError | None = None
    with ExitStack() as held:
        if model.takes.image is not None:
            try:
                try:
                    image = fetch()
                finally:
                    fetched = time.perf_counter()
                if model.takes.image == "pixels":
                    # The first only for the time limit: some headers take as long as pixels.
                    with hold(0):
                        opened = decoder.open_image(image)
                    held.enter_context(hold(opened.peak_bytes))
                    image = opened.decode()
                    box = opened.box
            except ImageError as exc:
                image, error = None, exc.without_traceback()
        prepare_item(item, model, Inputs(image, error, columns or {}, box))
    item.fetch_s = fetched - started
    item.decode_s = time.perf_counter() - fetched
    return item


def prepare_item(item: Item, model: Model, inputs: Inputs) -> None:
    """Let the model prepare a row; one that takes nothing but an image is not asked where there is none."""
    if inputs.error is not None and not model.takes.columns:
        item.error = inputs.error
        return
    try:
        item.prepared = model.prepare(inputs)
    except RowError as exc:
        item.error = exc.without_traceback()


def predict_items(items: Sequence[Item], model: Model) -> Outcomes:
    """Run the good rows through the model in one batch, and put every row's outcome together.

    Raises:
        ValueError: the model gave another number of values, or a code that it does not declare.
        Exception: whatever else it raises.
    """
    errors = [item.error for item in items]
    good = [row for row, error in enumerate(errors) if error is None]
    if not good:
        columns: dict[str, Values] = {field.name: [] for result in model.gives for field in result.fields}
        missing = _checked(errors, model)
        return Outcomes(columns, {result.name: missing for result in model.gives})
    prediction = model.predict([items[row].prepared for row in good])
    columns, errors_by_result = {}, {}
    for result in model.gives:
        failures = prediction.failures.get(result.name, {})
        missing = list(errors)
        for index, error in failures.items():
            missing[good[index]] = error
        errors_by_result[result.name] = _checked(missing, model)
        kept = [index for index in range(len(good)) if index not in failures] if failures else None
        for field_ in result.fields:
            values = prediction.columns[field_.name]
            if len(values) != len(good):
                raise ValueError(f"predict gave {len(values)} values of {field_.name} for {len(good)} rows")
            columns[field_.name] = values if kept is None else take_values(values, kept)
    return Outcomes(columns, errors_by_result, batch_limit=prediction.batch_limit)


def _checked(errors: list[RowError | None], model: Model) -> list[RowError | None]:
    """Return the errors, all of codes that are known: counting by code is bounded.

    Raises:
        ValueError: one is of a code that neither images nor the model have.
    """
    for error in errors:
        if error is not None and error.code not in ERROR_CODES and error.code not in model.codes:
            raise ValueError(f"{type(model).__name__} does not declare the error code {error.code!r}")
    return errors
