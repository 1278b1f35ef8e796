"""The signature of a model of tables: which columns it takes, by name, of which types, and what it gives.

Out of its config.json; opens no file, knows no framework and no data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from spark_embed.errors import ModelError
from spark_embed.schema import PREDICTION_CLASS, PREDICTION_SCORE, SCORES, TIMESTAMP, Field, Result, Results

FeatureType = Literal["integer", "number", "boolean", "category"]
OutputKind = Literal["binary", "multiclass", "regression"]
Activation = Literal["none", "sigmoid", "softmax"]
DataType = Literal["float32", "float64"]

_SAME_TYPES = {"int": "integer", "long": "integer", "float": "number", "double": "number", "bool": "boolean"}
"""What MLflow's signatures and people call them."""

_FEATURE_KEYS = {"name", "type", "categories", "required"}
_OUTPUT_KEYS = {"kind", "activation", "classes", "threshold"}
_THRESHOLD = 0.5


@dataclass(frozen=True)
class Feature:
    """A column that the model takes.

    Attributes:
        categories: those that there are, texts or integers; the model gets a value's place among them.
        required: a row without it is an error row; else the model gets NaN.
    """

    name: str
    type: FeatureType
    categories: tuple[str, ...] | tuple[int, ...] = ()
    required: bool = True


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives.

    Attributes:
        features: in the order in which the model takes them, wherever a table has them.
        kind: one score of two classes, a score for each of several, or a number.
        activation: what makes scores of the model's output.
        classes: names or integers, by their place in the output.
        threshold: from which score on a row is of the second of two classes.
        dtype: of the matrix that the model is given.
    """

    features: tuple[Feature, ...]
    kind: OutputKind = "binary"
    activation: Activation = "none"
    classes: tuple[str, ...] | tuple[int, ...] = (0, 1)
    threshold: float = _THRESHOLD
    dtype: DataType = "float32"

    @property
    def names(self) -> tuple[str, ...]:
        """The features' columns."""
        return tuple(feature.name for feature in self.features)

    @property
    def gives(self) -> Results:
        """The columns of a prediction."""
        names_classes = any(isinstance(one, str) for one in self.classes)
        kind = Field(PREDICTION_CLASS, "string" if names_classes else "int")
        fields = [Field(PREDICTION_SCORE, "float"), *([] if self.kind == "regression" else [kind])]
        fields += [Field(SCORES, "array<float>")] if self.kind == "multiclass" else []
        return (Result("prediction", (*fields, Field(TIMESTAMP, "timestamp"))),)

    def to_json(self) -> str:
        """Return it as text: a recipe's option, and what decides a result."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Signature:
        """Return what `to_json` gave."""
        values = json.loads(text)
        features = tuple(
            Feature(**{**one, "categories": tuple(one["categories"])}) for one in values["features"]
        )
        return cls(**{**values, "features": features, "classes": tuple(values["classes"])})


def read_signature(config: Mapping[str, Any], where: str) -> Signature:
    """Return the signature of a config.json, called `where` in errors.

    Raises:
        ModelError: it has none, or one that is wrong; the text says how one looks.
    """
    given = config.get("signature")
    if not isinstance(given, dict) or not isinstance(given.get("inputs"), list) or not given["inputs"]:
        raise ModelError(
            f'{where} needs a signature: {{"signature": {{"inputs": [{{"name": "age", "type": "integer"}}, '
            '...], "output": {"kind": "binary"}}}; docs/tables.md shows one'
        )
    features = tuple(_read_feature(one, where) for one in given["inputs"])
    names = [feature.name for feature in features]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ModelError(f"{where}: two inputs of the signature are called {repeated[0]!r}")
    output = given.get("output", {})
    if not isinstance(output, dict) or (odd := set(output) - _OUTPUT_KEYS):
        found = sorted(odd) if isinstance(output, dict) else output
        raise ModelError(f"{where}: output {found!r} of the signature: {', '.join(sorted(_OUTPUT_KEYS))}")
    kind = _choice(output.get("kind", "binary"), OutputKind, f"{where}: output kind")
    classes = tuple(output.get("classes", (0, 1)))
    if kind == "multiclass" and len(classes) < 2:
        raise ModelError(f"{where}: a multiclass output needs its classes, in the order of the scores")
    if kind == "binary" and len(classes) != 2:
        raise ModelError(f"{where}: a binary output has two classes, not {len(classes)}")
    _check_same_kind(classes, f"{where}: classes")
    if too_large := [one for one in classes if isinstance(one, int) and not -(1 << 31) <= one < 1 << 31]:
        raise ModelError(f"{where}: class {too_large[0]} must be below 2**31; write the classes as texts")
    threshold = output.get("threshold", _THRESHOLD)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise ModelError(f"{where}: threshold {threshold!r} must be a number from 0 to 1")
    return Signature(
        features,
        kind,
        _choice(output.get("activation", "none"), Activation, f"{where}: activation"),
        classes,
        float(threshold),
        _choice(given.get("dtype", "float32"), DataType, f"{where}: dtype"),
    )


def _read_feature(given: Any, where: str) -> Feature:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str) or set(given) - _FEATURE_KEYS:
        raise ModelError(f"{where}: input {given!r} must have a name, a type, and no more than categories")
    name = given["name"]
    called = _SAME_TYPES.get(str(given.get("type")), given.get("type"))
    type_ = _choice(called, FeatureType, f"{where}: type of input {name!r}")
    categories = given.get("categories", [])
    if (type_ == "category") != bool(categories) or not isinstance(categories, list):
        raise ModelError(f"{where}: input {name!r}: a category, and nothing else, lists its categories")
    _check_same_kind(tuple(categories), f"{where}: categories of input {name!r}")
    return Feature(name, type_, tuple(categories), bool(given.get("required", True)))


def _check_same_kind(values: tuple[Any, ...], what: str) -> None:
    kinds = {type(value) for value in values}
    if kinds - {str} and kinds - {int}:
        raise ModelError(f"{what} must be all texts or all integers, not {list(values)!r}")
    if len(set(values)) < len(values):
        raise ModelError(f"{what}: one is there twice in {list(values)!r}")


def _choice(value: Any, literal: Any, what: str) -> Any:
    if value not in get_args(literal):
        raise ModelError(f"{what}: {value!r} must be one of {', '.join(get_args(literal))}")
    return value
