"""The model seam: what a model takes and gives, and the recipe that builds one; knows no kind of model.

A recipe travels to the executors, never the weights. Importing this room imports no torch: the
driver only writes recipes.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from spark_embed.errors import RowError
from spark_embed.models.registry import EMBEDDED_MODEL, IMAGE_EMBEDDER, find_class
from spark_embed.schema import EMBEDDING_RESULTS, Results, read_results

Prepared = Any
"""What a model makes of one row's inputs, ahead of the device; opaque outside the model."""

Values = npt.NDArray[np.float32] | Sequence[Any]
"""A column of results: of vectors float32 (n, dim), or a sequence of n lists where lengths differ."""

Compared = Mapping[str, npt.NDArray[Any]]
"""Compared of results that are compared: vectors float32 (n, dim), numbers (n,); whole ones must be equal."""


@dataclass(frozen=True)
class Takes:
    """What a model needs of a row.

    Attributes:
        image: "pixels" (decoded), "bytes" (as they were fetched), or None for nothing of it.
        columns: names of the data set's own columns.
        edge: to how many pixels `prepare` resizes the shorter side, or the longer of two fixed ones. JPEGs
            much larger than that may then be decoded at a smaller scale, with `Inputs.box`. None: never.
        ahead: how many rows `prepare` is to have begun beyond the oldest that is waited for, at least: of a
            model whose work is done elsewhere meanwhile. 0: as many as keep this machine busy.
    """

    image: Literal["pixels", "bytes"] | None = "pixels"
    columns: tuple[str, ...] = ()
    edge: int | None = None
    ahead: int = 0


class Inputs(NamedTuple):
    """What a model is given of a row.

    Attributes:
        value: RGB pixels, uint8 (height, width, 3), or the encoded bytes: what the model takes.
        error: why there is no image.
        columns: the values of the columns that the model takes, None for a null.
        box: which part of the pixels of a scaled JPEG is picture: left, top, right, bottom, as
            `PIL.Image.resize` takes it; None for all. A pixel may be partly outside.
    """

    value: Any = None
    error: RowError | None = None
    columns: Mapping[str, Any] = MappingProxyType({})
    box: tuple[float, float, float, float] | None = None

    @property
    def image(self) -> Any:
        """The pixels or bytes.

        Raises:
            RowError: why there are none. To let it pass is right for a model that can do nothing without.
        """
        if self.error is not None:
            raise self.error
        return self.value


@dataclass(frozen=True)
class Site:
    """Where a run's models are at work: what a worker cannot find out, and decides no result.

    Attributes:
        folder: of the run's state, for what a model must not lose; the run deletes it when it has come to its
            end. None: there is none.
        n_tasks: that run at once, at most: what all of them may do together is divided by it.
        n_executors: that run them; None where nobody knows.
        max_cost: USD that the run may pay others for results (--max_cost); None for no limit.
        paid_before: USD that what is in `folder` had cost when the run began.
    """

    folder: str | None = None
    n_tasks: int = 1
    n_executors: int | None = None
    max_cost: float | None = None
    paid_before: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How to build a model. Small, hashable and picklable: it is the key of the worker's cache.

    Attributes:
        kind: which class builds it (`spark_embed.models.registry`).
        source: folder in Hugging Face layout (a path or a URI in S3), hub id, or `EMBEDDED_MODEL`.
        revision: branch, tag or commit of a hub id; after preflight always the commit.
        dtype: "auto" until preflight has resolved it.
        device: "auto", "gpu" (CUDA or MPS, never the CPU), both also with the number of the CUDA device that
            it is to be, "auto:1"; "cpu", "cuda", "cuda:1" or "mps".
        normalize: scale every vector to length 1.
        weights_sha256: what the weights must hash to; None until preflight has read them.
        compile_rows: the batch size for which torch.compile makes the network; None for as it is.
        options: those of its kind, by name (`spark_embed.models.registry.Kind`), and behind them what its
            loading has made of them for the workers; values are hashable.
        secrets: variables that the worker's environment needs, and where their values are (--secrets).
        takes, gives: what the model needs of a row and makes of it; of another kind than an image embedder,
            only its loading tells (`resolved`).
        site: of the run; the driver fills it in.
    """

    source: str = EMBEDDED_MODEL
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    normalize: bool = True
    weights_sha256: str | None = None
    allow_pickle_weights: bool = False
    trust_remote_code: bool = False
    compile_rows: int | None = None
    secrets: tuple[str, ...] = ()
    kind: str = IMAGE_EMBEDDER
    options: tuple[tuple[str, Any], ...] = ()
    takes: Takes = Takes()
    gives: Results = EMBEDDING_RESULTS
    site: Site = Site()

    def option(self, name: str) -> Any:
        """Return the value of an option of the kind.

        Raises:
            KeyError: the kind has no such option.
        """
        return dict(self.options)[name]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe of `dataclasses.asdict`, also after it has been JSON."""
        takes = values["takes"]
        return cls(
            **{
                **values,
                "options": tuple((name, _hashable(value)) for name, value in values["options"]),
                "secrets": tuple(values["secrets"]),
                "takes": Takes(**{**takes, "columns": tuple(takes["columns"])}),
                "site": Site(**values["site"]),
                "gives": read_results(values["gives"]),
            }
        )


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


@dataclass
class Prediction:
    """What a batch gave.

    Attributes:
        columns: by field of `Model.gives`, one value for each row of the batch, in order.
        failures: by result, the rows that lack it, by index; their values are not to be used.
        batch_limit: rows that fit into one forward pass on this device, once more of them did not; None
            while all of them fit.
        row_s: seconds that a row takes a task, where the clock does not tell: what is there already.
    """

    columns: dict[str, Values]
    failures: dict[str, dict[int, RowError]] = field(default_factory=dict)
    batch_limit: int | None = None
    row_s: float | None = None


class Model(Protocol):
    """One loaded model, in one worker process.

    It may have methods `begin()`, called when a task begins, before its first row, and `end()`, called when
    the task has ended, whether or not it came to its last.

    Attributes:
        takes: what it needs of a row.
        gives: the results that it makes of one. A row is an error row only if none of them can be made.
        codes: the codes of its own errors, beside those of images (`spark_embed.errors.ERROR_CODES`).
        reference: what its results are compared with before a run; None for nothing.
    """

    recipe: Recipe
    takes: Takes
    gives: Results
    codes: frozenset[str]
    reference: ReferenceModel | None

    def prepare(self, inputs: Inputs) -> Prepared:
        """Turn a row's inputs into what `predict` takes; pixels into the model's size, still uint8.

        Runs on the feed's decode threads, on the CPU, and releases the GIL where it counts.

        Raises:
            RowError: nothing can be made of this row.
        """
        ...

    def predict(self, batch: list[Prepared]) -> Prediction:
        """Run the batch on the device, normalisation of the pixels included.

        In one forward pass, or in smaller ones where that does not fit into the device's memory.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return what metadata.json says of the model, as JSON values.

        `name`, `source` and `device` are for people; all else decides what a result is, and a run that
        differs in it does not go on with the results of another.
        """
        ...


@runtime_checkable
class TableModel(Model, Protocol):
    """A model that takes columns instead of rows: for rows of a few numbers, of which there are many."""

    def predict_table(
        self, columns: Mapping[str, Any], n_rows: int, batch_size: int, faults: Any = None
    ) -> Any:
        """Return what some rows give (`spark_embed.models.tabular.tabular_model.Predicted`).

        Args:
            columns: Arrow arrays by name, each of `n_rows` values; what is missing is null in every row.
            n_rows: so many.
            batch_size: rows of a forward pass.
            faults: an Arrow array, of rows that are none why; null for the others.
        """
        ...


class ReferenceModel(Protocol):
    """The same model by the library that it comes from, and nothing of ours: what parity compares with."""

    def prepare(self, inputs: Inputs) -> Any:
        """Return the reference's inputs for a row, of which an image is whole RGB pixels.

        Raises:
            RowError: it cannot have this row.
        """
        ...

    def difference(self, prepared: Prepared, reference: Any) -> float | None:
        """Return the largest difference of a prepared pixel in grey levels, 0 to 255; None if none can be."""
        ...

    def predict(self, batch: Sequence[Any]) -> Compared:
        """Return those of the model's columns that can be compared, by float32; takes a copy of the model.

        A vector of zeros is none: there is nothing to compare it with.
        """
        ...


def take_values(values: Values, rows: list[int]) -> Values:
    """Return the values of some rows."""
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]


def join_values(parts: Sequence[Values]) -> Values:
    """Return columns of consecutive rows as one."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [value for part in parts for value in part]


def resolved(model: Model) -> Recipe:
    """Return the recipe of a loaded model with all that its loading has told."""
    return replace(model.recipe, takes=model.takes, gives=model.gives)


_loaded: dict[Recipe, Model] = {}
_lock = threading.Lock()


def load_model(recipe: Recipe) -> tuple[Model, bool]:
    """Return the worker's model for `recipe`, and whether this call had to load it (slow).

    The cache lives in this importable module, so it outlives a task and a worker process loads a
    model once, however many tasks it runs. A different recipe replaces the model.

    Raises:
        ModelError: the model cannot be built, or its weights are not those of the recipe.
    """
    with _lock:
        if recipe in _loaded:
            return _loaded[recipe], False
        _loaded.clear()
        model = find_class(recipe.kind)(recipe)
        # Preflight asks with "auto", and binds the run to what it became but for the device: the same model.
        told = resolved(model)
        for known in (recipe, model.recipe, told, replace(told, device=recipe.device)):
            _loaded[known] = model
        return model, True
