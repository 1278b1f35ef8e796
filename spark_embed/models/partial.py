"""Models made of others: each prepares and predicts what it can of a row, and says what it cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from spark_embed.errors import RowError
from spark_embed.models import Prediction, Prepared, Values
from spark_embed.schema import Results


def try_prepare(prepare: Callable[[], Prepared]) -> Prepared | RowError:
    """Return what was prepared, or why it could not be."""
    try:
        return prepare()
    except RowError as exc:
        return exc.without_traceback()


def predict_prepared(
    rows: Sequence[Prepared | RowError], predict: Callable[[list[Prepared]], Prediction], results: Results
) -> Prediction:
    """Predict the rows that are no errors; the others lack all `results`, and their values are empty."""
    failed = {row: value for row, value in enumerate(rows) if isinstance(value, RowError)}
    there = [row for row in range(len(rows)) if row not in failed]
    if not there:
        nothing: dict[str, Values] = {
            field.name: [None] * len(rows) for result in results for field in result.fields
        }
        return Prediction(nothing, {result.name: failed for result in results})
    made = predict([rows[row] for row in there])
    failures = {
        result.name: failed | {there[row]: error for row, error in made.failures.get(result.name, {}).items()}
        for result in results
    }
    columns = {name: _spread(values, there, len(rows)) for name, values in made.columns.items()}
    return Prediction(columns, failures, made.batch_limit)


def _spread(values: Values, rows: Sequence[int], n_rows: int) -> Values:
    """Return `n_rows` values, those of `rows` as given, the others of no meaning."""
    if len(rows) == n_rows:
        return values
    if isinstance(values, np.ndarray):
        spread = np.zeros((n_rows, *values.shape[1:]), dtype=values.dtype)
        spread[list(rows)] = values
        return spread
    found = dict(zip(rows, values, strict=True))
    return [found.get(row) for row in range(n_rows)]
