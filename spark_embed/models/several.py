"""Several models behind the seam as one: a row is decoded once, and each gives columns of its own name.

Knows no kind of model. The driver makes a recipe that holds the models' own; imports no torch itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from spark_embed.config import ModelOptions
from spark_embed.errors import ConfigError, ModelError, RowError
from spark_embed.models import (
    Compared,
    Inputs,
    Model,
    Prediction,
    Prepared,
    Recipe,
    ReferenceModel,
    Takes,
)
from spark_embed.models.partial import predict_prepared, try_prepare
from spark_embed.models.registry import REMOTE, choose_kind, find_check, find_class, find_options, find_source
from spark_embed.schema import EMBEDDING_RESULTS, Field, Result, Results, result_columns

_OWN_FIELDS = ("source", "revision", "weights_sha256", "kind", "options")
"""Of a recipe, what each of the models has for itself; all else is that of the recipe that holds them."""

_OF_ONE = ("name", "source", "device", "dtype")
"""Of what a model says of itself, what is told of all together, or is a name that they have here anyway."""


def read_recipes(options: ModelOptions) -> tuple[tuple[str, Any], ...]:
    """Return, by the name of each model, its part of the recipe: pairs of field and value; driver only.

    Raises:
        ConfigError: a model cannot be one of several, or an option is for one alone.
        ModelError, StorageError: as `choose_kind` and `find_options`.
    """
    flag = f"--model_directory {options.model_directory}"
    if options.revision is not None:
        raise ConfigError(
            f"--revision {options.revision}: is for one model, and --model_directory names several; give "
            "a folder that holds that revision"
        )
    recipes: dict[str, Any] = {}
    for directory in options.model_directories:
        if not directory:
            raise ConfigError(f"{flag}: nothing between two commas, or at an end")
        source = find_source(directory)
        name = model_name(source)
        if name.lower() in map(str.lower, recipes):
            raise ConfigError(
                f"{flag}: two models would both be {name} in the names of columns; name one by a folder that "
                "is called otherwise, a symbolic link for example"
            )
        one = options.model_copy(update={"model_directory": directory})
        if (kind := choose_kind(one)) == REMOTE:
            raise ConfigError(f"{flag}: {directory} is a remote API, which needs a run of its own")
        own = {"source": source, "kind": kind, "options": find_options(kind, one)}
        recipes[name] = tuple(own.items())
    return tuple(recipes.items())


def model_name(source: str) -> str:
    """Return what a model is called in columns: the last part of its folder's path or hub id, made plain."""
    return re.sub(r"\W", "_", os.path.basename(source.rstrip("/")), flags=re.ASCII)


def check_all(recipe: Recipe) -> None:
    """Look at the files of each model before Spark starts.

    Raises:
        ModelError: those of one cannot be used.
    """
    for name, _ in recipe.options:
        one = _recipe_of(recipe, name)
        find_check(one.kind)(one)


def _recipe_of(recipe: Recipe, name: str, dtype: str = "auto") -> Recipe:
    """Return the recipe of one model."""
    own = dict(recipe.option(name))
    return replace(recipe, **{"options": (), **own}, dtype=dtype, takes=Takes(), gives=EMBEDDING_RESULTS)


class SeveralModels:
    """Implements `spark_embed.models.Model` by some others, which run one after the other on each batch.

    A row that one of them cannot take has the results of the others.

    Attributes:
        recipe: its options are, by the name of a model, the resolved part of that; its dtype is that of all,
            or one for each, comma-separated, where they have not the same.
        models: by name, in the order of the columns.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Load all of them (slow; runs once per worker process).

        Args:
            recipe: its options as `read_recipes` has them.

        Raises:
            ModelError: one cannot be loaded, takes no pixels, or gives a column that another gives.
        """
        names = [name for name, _ in recipe.options]
        dtypes = recipe.dtype.split(",")
        dtypes = dtypes if len(dtypes) == len(names) else dtypes * len(names)
        self.models: dict[str, Model] = {}
        for name, dtype in zip(names, dtypes, strict=True):
            one = _recipe_of(recipe, name, dtype)
            self.models[name] = find_class(one.kind)(one)
        self._parts = list(self.models.items())
        self._check(recipe)
        loaded = [model.recipe for model in self.models.values()]
        dtypes = [one.dtype for one in loaded]
        self.recipe = replace(
            recipe,
            device=loaded[0].device,
            dtype=dtypes[0] if len(set(dtypes)) == 1 else ",".join(dtypes),
            options=tuple(
                (name, tuple((field, getattr(one, field)) for field in _OWN_FIELDS))
                for name, one in zip(names, loaded, strict=True)
            ),
        )

    @property
    def takes(self) -> Takes:
        """What any of them takes; large JPEGs may be scaled if that suits all."""
        all_takes = [model.takes for model in self.models.values()]
        columns = dict.fromkeys(column for takes in all_takes for column in takes.columns)
        edges = [takes.edge for takes in all_takes if takes.edge]
        return Takes("pixels", tuple(columns), max(edges) if len(edges) == len(all_takes) else None)

    @property
    def gives(self) -> Results:
        """See `Model.gives`; the names of results and columns end in the model's."""
        return tuple(
            Result(
                _named(result.name, name),
                tuple(Field(_named(field.name, name), field.type) for field in result.fields),
            )
            for name, model in self._parts
            for result in model.gives
        )

    @property
    def codes(self) -> frozenset[str]:
        """See `Model.codes`."""
        return frozenset[str]().union(*(model.codes for model in self.models.values()))

    @property
    def reference(self) -> ReferenceModel | None:
        """The references of those that have one."""
        references = {name: model.reference for name, model in self._parts}
        there = {name: one for name, one in references.items() if one is not None}
        return _References(list(self.models), there) if there else None

    def begin(self) -> None:
        """Tell those that want to know that a task begins."""
        for model in self.models.values():
            if begin := getattr(model, "begin", None):
                begin()

    def prepare(self, inputs: Inputs) -> list[Prepared | RowError]:
        """Return what each prepares of a row, or why it cannot.

        Raises:
            RowError: none of them can.
        """
        prepared = [try_prepare(partial(model.prepare, inputs)) for model in self.models.values()]
        if all(isinstance(one, RowError) for one in prepared):
            raise prepared[0]
        return prepared

    def predict(self, batch: list[Prepared]) -> Prediction:
        """See `Model.predict`; each gets the rows that it could prepare."""
        whole = Prediction({})
        limits = []
        for number, (name, model) in enumerate(self._parts):
            made = predict_prepared([row[number] for row in batch], model.predict, model.gives)
            whole.columns |= {_named(column, name): values for column, values in made.columns.items()}
            whole.failures |= {_named(result, name): rows for result, rows in made.failures.items()}
            limits += [made.batch_limit] if made.batch_limit else []
        whole.batch_limit = min(limits, default=None)
        return whole

    def describe(self) -> dict[str, Any]:
        """See `Model.describe`; `models` says of each what decides its results."""
        described = {name: model.describe() for name, model in self._parts}
        return {
            "name": " + ".join(self.models),
            "source": self.recipe.source,
            "dtype": self.recipe.dtype,
            "device": self.recipe.device,
            "models": {
                name: {field: value for field, value in one.items() if field not in _OF_ONE}
                for name, one in described.items()
            },
        }

    def _check(self, recipe: Recipe) -> None:
        for model in self.models.values():
            if model.takes.image != "pixels":
                raise ModelError(
                    f"--model_directory {recipe.source}: {model.recipe.source} takes no decoded image, and "
                    "needs a run of its own"
                )
        columns = [column.lower() for column in result_columns(self.gives)]
        if twice := sorted({column for column in columns if columns.count(column) > 1}):
            raise ModelError(
                f"--model_directory {recipe.source}: two of the models give a column {twice[0]}; name one by "
                "a folder that is called otherwise, a symbolic link for example"
            )


class _References:
    """The references of some of several models; implements `spark_embed.models.ReferenceModel`."""

    def __init__(self, names: Sequence[str], references: Mapping[str, ReferenceModel]) -> None:
        self._numbers = {name: names.index(name) for name in references}
        self._references = references

    def prepare(self, inputs: Inputs) -> dict[str, Any]:
        return {name: one.prepare(inputs) for name, one in self._references.items()}

    def difference(self, prepared: Prepared, reference: dict[str, Any]) -> float | None:
        found = []
        for name, one in self._references.items():
            own = prepared[self._numbers[name]]
            if isinstance(own, RowError):
                raise own
            found.append(one.difference(own, reference[name]))
        return max((value for value in found if value is not None), default=None)

    def predict(self, batch: Sequence[dict[str, Any]]) -> Compared:
        return {
            _named(column, name): values
            for name, one in self._references.items()
            for column, values in one.predict([row[name] for row in batch]).items()
        }


def _named(name: str, model: str) -> str:
    return f"{name}_{model}"
