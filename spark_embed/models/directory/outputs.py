"""What `encode` returned -> columns of results; each row that is not what it should be is told by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spark_embed.errors import RowError
from spark_embed.models import Prediction, Values
from spark_embed.models.vectors import check_vectors
from spark_embed.schema import EMBEDDING, EMBEDDING_RESULTS, LABEL, LABEL_FIELDS, Result, Results


class Output(Protocol):
    """What a type of folder gives.

    Attributes:
        gives: see `spark_embed.models.Model`; one result.
    """

    gives: Results

    @property
    def nothing(self) -> Mapping[str, Values]:
        """The columns of a row that lacks it."""

    def learn(self, value: Any) -> None:
        """See from what a grey image gave what all rows give.

        Raises:
            RowError: it is not what it should be.
        """

    def collect(self, rows: Sequence[Any]) -> Prediction:
        """Return the columns of rows, a `RowError` in the place of what could not be encoded."""


def as_rows(encoded: Any, n_rows: int) -> list[Any]:
    """Return what `encode` gave for each row.

    Raises:
        RowError: it is no list, or of another length.
    """
    if hasattr(encoded, "detach"):  # of torch
        encoded = _as_numpy(encoded)
    if not isinstance(encoded, (list, tuple, np.ndarray)):
        raise RowError("model_error", f"encode returned {_shown(encoded)} instead of a list")
    if len(encoded) != n_rows:
        raise RowError("model_error", f"encode returned {len(encoded)} results for {n_rows} rows")
    return list(encoded)


class Embeddings:
    """A vector for each row: list, numpy array or tensor."""

    gives = EMBEDDING_RESULTS

    def __init__(self, *, normalize: bool) -> None:
        self.dim = 0
        self._normalize = normalize

    @property
    def nothing(self) -> Mapping[str, Values]:
        """See `Output`."""
        return {EMBEDDING: np.zeros((1, self.dim), dtype=np.float32)}

    def learn(self, value: Any) -> None:
        """See `Output.learn`."""
        self.dim = 0
        self.dim = len(self._vector(value))

    def collect(self, rows: Sequence[Any]) -> Prediction:
        """See `Output.collect`; `bad_vector`s are those of any other model, too."""
        vectors = np.zeros((len(rows), self.dim), dtype=np.float32)
        failures: dict[int, RowError] = {}
        for row, value in enumerate(rows):
            try:
                vectors[row] = self._vector(value)
            except RowError as exc:
                failures[row] = exc.without_traceback()
        vectors, bad = check_vectors(vectors, normalize=self._normalize)
        return Prediction({EMBEDDING: vectors}, {EMBEDDING: {**bad, **failures}})

    def _vector(self, value: Any) -> npt.NDArray[np.float32]:
        if isinstance(value, RowError):
            raise value
        if isinstance(value, (str, bytes)):
            raise RowError("model_error", f"encode returned {_shown(value)} instead of a vector")
        try:
            with np.errstate(over="ignore"):  # it is an infinity, then
                vector = np.asarray(_as_numpy(value), dtype=np.float32)
        except (TypeError, ValueError, OverflowError) as exc:
            told = f"encode returned {_shown(value)}, of which no vector can be made: {exc}"
            raise RowError("model_error", told) from exc
        if vector.ndim != 1 or not vector.size:
            shape = " x ".join(map(str, vector.shape)) or "a single number"
            raise RowError("model_error", f"encode returned an array of {shape} instead of a vector")
        if self.dim and len(vector) != self.dim:
            raise RowError("model_error", f"encode returned {len(vector)} values; others have {self.dim}")
        return vector


class Labels:
    """A dict with `label` and `score` for each row, or a list of some, the best first."""

    gives: Results = (Result(LABEL, LABEL_FIELDS),)
    nothing: Mapping[str, Values] = {field.name: [None] for field in LABEL_FIELDS}

    def __init__(self, labels: Sequence[str]) -> None:
        self._ids = {label: number for number, label in enumerate(labels)}

    def learn(self, value: Any) -> None:
        """See `Output.learn`."""
        self._row(value)

    def collect(self, rows: Sequence[Any]) -> Prediction:
        """See `Output.collect`."""
        names = list(self.nothing)
        columns: dict[str, Values] = {}
        failures: dict[int, RowError] = {}
        found = []
        for row, value in enumerate(rows):
            try:
                found.append(self._row(value))
            except RowError as exc:
                failures[row] = exc.without_traceback()
                found.append((None,) * len(names))
        columns |= {name: [values[index] for values in found] for index, name in enumerate(names)}
        return Prediction(columns, {LABEL: failures})

    def _row(self, value: Any) -> tuple[Any, ...]:
        if isinstance(value, RowError):
            raise value
        best = [value] if isinstance(value, dict) else value
        if not isinstance(best, (list, tuple)) or not best:
            raise RowError("model_error", f"encode returned {_shown(value)} instead of a label and its score")
        labels, scores = zip(*map(_label_and_score, best), strict=True)
        if any(after > before for before, after in pairwise(scores)):
            raise RowError("model_error", f"encode returned scores that are not best first: {_shown(scores)}")
        number = best[0].get("label_id", self._ids.get(labels[0]))
        if number is not None and not _is_id(number):
            raise RowError("model_error", f"encode returned a label_id that is no number: {_shown(number)}")
        return labels[0], None if number is None else int(number), scores[0], list(labels), list(scores)


def _label_and_score(value: Any) -> tuple[str, float]:
    """Return the label and the score of a dict.

    Raises:
        RowError: it has none.
    """
    if not isinstance(value, dict):
        raise RowError("model_error", f"encode returned {_shown(value)} instead of a label and its score")
    label, score = value.get("label"), value.get("score")
    if not isinstance(label, str):
        raise RowError("model_error", f"encode returned a label that is no text: {_shown(label)}")
    try:
        label.encode()
    except UnicodeEncodeError as exc:
        told = f"encode returned a label with half a character (a surrogate): {_shown(label)}"
        raise RowError("model_error", told) from exc
    try:
        number = float(score)  # type: ignore[arg-type]  # of numpy or torch, too
    except (TypeError, ValueError, OverflowError) as exc:
        raise RowError("model_error", f"encode returned a score that is no number: {_shown(score)}") from exc
    if not math.isfinite(number):
        raise RowError("model_error", f"encode returned a score that is {number}")
    return label, number


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and -(1 << 31) <= int(value) < 1 << 31


def _as_numpy(value: Any) -> Any:
    """Return a tensor's values, of any precision and device; anything else as it is."""
    return value.detach().float().cpu().numpy() if hasattr(value, "detach") else value


def _shown(value: Any) -> str:
    """Return what a value is, in short; its own text may be anything."""
    if value is None or isinstance(value, (str, bytes, int, float, np.generic)):
        return f"{type(value).__name__} {repr(value)[:40]}"
    return f"a {type(value).__name__}"
