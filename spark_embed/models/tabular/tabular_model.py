"""Rows of a table -> scores and classes: by row as any model, and by column, a hundred times as fast."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spark_embed.errors import ModelError, RowError, one_line
from spark_embed.models import Inputs, Prediction, Prepared, Recipe, ReferenceModel, Takes, Values
from spark_embed.models.tabular.features import CODES, Features, read_features
from spark_embed.models.tabular.files import find_files
from spark_embed.models.tabular.formats import find_format
from spark_embed.models.tabular.networks import LIBRARY_ERRORS, load_network
from spark_embed.models.tabular.signature import Signature
from spark_embed.models.weights import bind_recipe, hashed
from spark_embed.schema import PREDICTION_CLASS, PREDICTION_SCORE, SCORES, TIMESTAMP

BAD_SCORE = "bad_score"
WRONG_FIELD_COUNT = "wrong_field_count"
NOT_AN_OBJECT = "not_an_object"

ROW_CODES = (*CODES, BAD_SCORE, WRONG_FIELD_COUNT, NOT_AN_OBJECT)
"""All that a row of a table may be wrong in; the last two are told where a file of text is read."""


_ROUNDING = 1e-5
"""So far beyond 0 and 1 a sum of float32 probabilities may be, and is then taken for 0 or 1."""


@dataclass
class Predicted:
    """What some rows gave.

    Attributes:
        columns: by column that the model gives, an Arrow array of the rows' values; null in error rows.
        errors: why a row has none, by its index.
        features: what the rows were to the model.
        seconds: "decode_s" of reading them, "predict_s" of the forward passes.
    """

    columns: dict[str, pa.Array]
    errors: dict[int, RowError]
    features: Features
    seconds: dict[str, float]


class TabularModel:
    """Implements `spark_embed.models.Model` for the rows of tables.

    Attributes:
        recipe: with everything resolved.
        signature: what it takes and gives.
    """

    codes = frozenset(ROW_CODES)
    reference: ReferenceModel | None = None

    def __init__(self, recipe: Recipe) -> None:
        """Load the model (slow; runs once per worker process).

        Args:
            recipe: of the model; `signature` and `architecture` are its options.

        Raises:
            ModelError: it cannot be loaded, gives something else than its signature says, or is not the one
                of `recipe.weights_sha256`.
        """
        files = find_files(recipe)
        self._where = f"--model_directory {recipe.source}: {files.weights.rpartition('/')[2]}"
        self.signature = Signature.from_json(recipe.option("signature"))
        self._format = find_format(files.weights, self._where)
        device = "cpu"
        if self._format != "onnx":
            from spark_embed.models.device import resolve_device

            device = resolve_device(recipe.device)
        elif recipe.device.partition(":")[0] == "gpu":
            raise ModelError(f"--require_gpu true: {self._where} is ONNX, which runs on the CPU here")
        try:
            with hashed([files.weights]) as sha256:
                architecture = json.loads(recipe.option("architecture"))
                self._network = load_network(
                    files.weights, self._format, self.signature, architecture, device, self._where
                )
        except (OSError, ValueError) as exc:
            raise ModelError(f"{self._where}: {one_line(exc)}") from exc
        self.recipe = bind_recipe(
            replace(recipe, dtype="auto"),
            device=device,
            dtype=self.signature.dtype,
            revision=None,
            sha256=sha256.result(),
        )
        self.takes = Takes(image=None, columns=self.signature.names)
        self.gives = self.signature.gives
        self._name = str(files.config.get("name") or files.folder.rstrip("/").rpartition("/")[2])
        self._scores(np.zeros((3, len(self.signature.features)), self.signature.dtype), 2)

    def prepare(self, inputs: Inputs) -> Prepared:
        """See `Model.prepare`: a row of the matrix."""
        columns = {name: pa.array([value]) for name, value in inputs.columns.items()}
        features = read_features(columns, self.signature, 1)
        if features.errors:
            raise features.errors[0]
        return features.matrix[0]

    def predict(self, batch: list[Prepared]) -> Prediction:
        """See `Model.predict`."""
        found = self._predict(np.stack(batch), {}, len(batch))
        columns: dict[str, Values] = {name: array.to_pylist() for name, array in found.columns.items()}
        return Prediction(columns, {self.gives[0].name: found.errors})

    def predict_table(
        self,
        columns: Mapping[str, pa.Array],
        n_rows: int,
        batch_size: int,
        faults: pa.Array | None = None,
    ) -> Predicted:
        """Return what some rows give, by forward passes of `batch_size` good rows; the last may be smaller.

        Args:
            columns: by name; those that the signature does not name are not looked at.
            n_rows: of each.
            batch_size: rows of a forward pass.
            faults: why a row is none, "code: detail"; null for those that are.
        """
        started = time.perf_counter()
        features = read_features(columns, self.signature, n_rows)
        errors = features.errors
        if faults is not None and faults.null_count < n_rows:
            for row in np.flatnonzero(faults.is_valid().to_numpy(zero_copy_only=False)):
                code, _, detail = faults[int(row)].as_py().partition(": ")
                errors[int(row)] = RowError(code, detail)
        matrix = features.matrix
        if errors:
            matrix = np.delete(matrix, list(errors), axis=0)
        read = time.perf_counter()
        found = self._predict(matrix, errors, n_rows, batch_size)
        seconds = {"decode_s": read - started, "predict_s": time.perf_counter() - read}
        return Predicted(found.columns, found.errors, features, seconds)

    def _predict(
        self,
        matrix: npt.NDArray[Any],
        errors: dict[int, RowError],
        n_rows: int,
        batch_size: int | None = None,
    ) -> Predicted:
        """Predict the good rows, which `matrix` holds, and put the nulls of the others between them."""
        given = scores = self._scores(matrix, batch_size or max(len(matrix), 1))
        is_good = np.ones(n_rows, np.bool_)
        is_good[list(errors)] = False
        is_right = np.isfinite(scores).all(axis=1)
        if self.signature.kind == "binary":
            is_right &= ((scores >= -_ROUNDING) & (scores <= 1 + _ROUNDING)).all(axis=1)
            scores = np.clip(scores, 0, 1)
        if not is_right.all():
            rows = np.flatnonzero(is_good)
            errors = dict(errors)
            for at in np.flatnonzero(~is_right):
                errors[int(rows[at])] = _bad_score(given[at])
        columns = {name: _spread(array, is_good) for name, array in self._columns(scores).items()}
        if not is_right.all():
            still = np.ones(n_rows, np.bool_)
            still[list(errors)] = False
            columns = {name: _masked(array, still) for name, array in columns.items()}
        return Predicted(columns, errors, Features(matrix, {}, {}), {})

    def _scores(self, matrix: npt.NDArray[Any], batch_size: int) -> npt.NDArray[np.float32]:
        """Return the scores of rows, float32 (n, classes) of several classes, else (n, 1).

        Raises:
            ModelError: the model cannot run on them, or gives something else than its signature says.
        """
        kind = self.signature.kind
        width = len(self.signature.classes) if kind == "multiclass" else 1
        if not len(matrix):
            return np.empty((0, width), np.float32)
        try:
            output = self._network(matrix, batch_size)
        except LIBRARY_ERRORS as exc:
            raise ModelError(
                f"{self._where}: cannot run on {len(self.signature.features)} features of "
                f"{self.signature.dtype}: {one_line(exc)}"
            ) from exc
        output = output.reshape(len(matrix), -1) if len(output) == len(matrix) else output[None]
        activation = self.signature.activation
        if kind == "binary" and output.shape[1:] == (2,):  # a column for each class
            if activation == "softmax":
                return _softmax(output)[:, 1:]
            output = output[:, 1:]
        if output.shape != (len(matrix), width):
            raise ModelError(
                f"{self._where}: gives {output.shape[1:]} for a row, and its signature says {kind} of {width}"
            )
        if activation == "softmax" and width == 1:
            raise ModelError(
                f"{self._where}: gives one number for a row, of which the softmax is always 1; the "
                "signature's activation must be sigmoid or none"
            )
        if activation == "sigmoid":
            return _sigmoid(output)
        return _softmax(output) if activation == "softmax" else output

    def _columns(self, scores: npt.NDArray[np.float32]) -> dict[str, pa.Array]:
        signature = self.signature
        n_rows = len(scores)
        now = time.time_ns() // 1000
        stamps = pa.array(np.full(n_rows, now, np.int64)).cast(pa.timestamp("us", "UTC"))
        if signature.kind == "regression":
            return {PREDICTION_SCORE: pa.array(scores[:, 0]), TIMESTAMP: stamps}
        if signature.kind == "multiclass":
            best = scores.argmax(axis=1)
            top = scores[np.arange(n_rows), best]
            columns = {PREDICTION_SCORE: pa.array(top), PREDICTION_CLASS: self._classes(best)}
            offsets = pa.array(np.arange(n_rows + 1, dtype=np.int32) * scores.shape[1])
            flat = pa.array(np.ascontiguousarray(scores).reshape(-1))
            return columns | {SCORES: pa.ListArray.from_arrays(offsets, flat), TIMESTAMP: stamps}
        places = (scores[:, 0] >= np.float32(signature.threshold)).astype(np.int64)
        return {
            PREDICTION_SCORE: pa.array(np.ascontiguousarray(scores[:, 0])),
            PREDICTION_CLASS: self._classes(places),
            TIMESTAMP: stamps,
        }

    def _classes(self, places: npt.NDArray[np.int64]) -> pa.Array:
        classes = self.signature.classes
        if isinstance(classes[0], str):
            return pa.array(classes, pa.string()).take(pa.array(places))
        return pa.array(np.array(classes, np.int32)[places])

    def describe(self) -> dict[str, Any]:
        """See `Model.describe`."""
        return {
            "name": self._name,
            "source": self.recipe.source,
            "weights_sha256": self.recipe.weights_sha256,
            "dtype": self.recipe.dtype,
            "device": self.recipe.device,
            "format": self._format,
            "signature": self.recipe.option("signature"),
            "architecture": self.recipe.option("architecture"),
        }


def _bad_score(scores: npt.NDArray[np.float32]) -> RowError:
    if not np.isfinite(scores).all():
        return RowError(BAD_SCORE, "the model gave NaN or an infinity")
    return RowError(
        BAD_SCORE,
        f"the model gave {scores[0]:.6g}, and a score of two classes is from 0 to 1: does the signature's "
        "output need an activation, sigmoid or softmax?",
    )


def _sigmoid(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    one = np.float32(1)
    with np.errstate(over="ignore"):
        found: npt.NDArray[np.float32] = one / (one + np.exp(-values))
    return found


def _softmax(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    found: npt.NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return found


def _spread(values: pa.Array, is_good: npt.NDArray[np.bool_]) -> pa.Array:
    """Return the values of the good rows, nulls between them for the others."""
    if len(values) == len(is_good):
        return values
    return values.take(pa.array(np.cumsum(is_good) - 1, mask=~is_good))


def _masked(values: pa.Array, is_good: npt.NDArray[np.bool_]) -> pa.Array:
    return values.take(pa.array(np.arange(len(is_good)), mask=~is_good))
