"""A model behind HTTP: images go out as they were fetched, answers come back as columns.

`prepare` sends a request on its way and `predict` collects answers, so that the next rows are asked about
while the oldest are waited for (`Takes.ahead`).
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from spark_embed.errors import RowError
from spark_embed.models import Inputs, Prediction, Recipe, Takes, Values
from spark_embed.models.api.answers import Answers
from spark_embed.models.api.asker import Answer, Asker
from spark_embed.models.api.client import Asked, Client
from spark_embed.models.api.columns import Column
from spark_embed.models.api.file import PARSED, RAW, ApiFile
from spark_embed.models.api.pace import Pace
from spark_embed.models.api.providers import ASKING, media_type
from spark_embed.models.api.replies import SpoiledError
from spark_embed.models.api.shrink import shrink
from spark_embed.models.api.spending import Spending
from spark_embed.models.vectors import check_vectors
from spark_embed.schema import Field, Result

_ROWS_AHEAD = 4  # for each request at once: so many rows wait for the slowest before the others have to

_DIMS = "dims"
"""What preflight's answer says of vectors, for all workers of the run: their lengths, by column."""


class RemoteModel:
    """Implements `spark_embed.models.Model`; one event loop for each worker process.

    Raises:
        ModelError: the key's environment variable is not set.
    """

    codes = frozenset({"rate_limited", "unavailable", "refused", "bad_answer"})
    reference = None

    def __init__(self, recipe: Recipe) -> None:
        self._api = ApiFile.model_validate_json(recipe.option("api"))
        self._columns = self._api.parsed_columns()
        self._asking = ASKING[self._api.provider](self._api)
        self.recipe = replace(recipe, device="remote")
        self.takes = Takes(image="bytes", ahead=_ROWS_AHEAD * self._api.concurrency)
        parsed = [Result(PARSED, tuple(column.field for column in self._columns))] if self._columns else []
        self.gives = (Result(RAW, (Field(RAW, "string"),)), *parsed)
        self._max_pixels: int = recipe.option("max_pixels")
        self._bound = self.recipe
        self._dims = _dims(self.recipe)
        self._seconds = 1.0  # of an answer, until there has been one
        answers = Answers(recipe.site.folder)
        spending = Spending(self._api, answers, recipe.site)
        asker = Asker(self._api, self._asking, answers, _make_pace(self._api, recipe), spending)
        self._client = Client(self._api, self._asking, asker, answers)
        weakref.finalize(self, self._client.close)

    def describe(self) -> dict[str, Any]:
        """Return what is asked, of whom, and what is made of it."""
        return {
            "name": self._api.model,
            "source": self._api.base_url,
            "device": "remote",
            **self._api.compared(),
            **({"normalize": self.recipe.normalize, _DIMS: dict(self._dims)} if self._vectors() else {}),
        }

    def begin(self) -> None:
        """Begin a task."""
        self.recipe, self._dims = self._bound, _dims(self._bound)  # preflight's, whatever was met before it
        self._client.begin()

    def end(self) -> None:
        """End a task."""
        self._client.end()

    def prepare(self, inputs: Inputs) -> Asked:
        """Send a request about an image on its way.

        Raises:
            RowError: there is no image, or none that may be sent.
            SparkEmbedError: the run must stop.
        """
        return self._client.ask(bytes(inputs.image), self._to_send)

    def _to_send(self, data: bytes) -> tuple[str, bytes]:
        if self._api.max_edge and (media_type(data) or "").startswith("image/"):
            data = shrink(data, self._api.max_edge, self._max_pixels)
        return self._asking.check(data), data

    def predict(self, batch: Sequence[Asked]) -> Prediction:
        """Wait for the answers and take them apart.

        Raises:
            SparkEmbedError: the run must stop.
        """
        raw: list[str] = []
        rows: list[list[Any]] = []
        failures: dict[str, dict[int, RowError]] = {result.name: {} for result in self.gives}
        for index, asked in enumerate(batch):
            raw.append("")
            rows.append([None] * len(self._columns))
            try:
                answer = self._client.result(asked)
                if isinstance(answer.value, SpoiledError) and not self._columns:
                    raise RowError(answer.value.code, str(answer.value))
            except RowError as exc:
                for found in failures.values():
                    found[index] = exc
                continue
            raw[index] = answer.text
            self._note(answer)
            try:
                if isinstance(answer.value, SpoiledError):
                    raise RowError(answer.value.code, str(answer.value))
                rows[index] = [self._checked(column, column.value(answer.value)) for column in self._columns]
            except RowError as exc:
                failures[PARSED][index] = exc.without_traceback()
        columns: dict[str, Values] = {RAW: raw}
        for number, column in enumerate(self._columns):
            columns[column.field.name] = self._values(column, [row[number] for row in rows])
        return Prediction(columns, failures, row_s=self._row_s())

    def _note(self, answer: Answer) -> None:
        if answer.seconds is not None:
            self._seconds = answer.seconds

    def _row_s(self) -> float:
        """Return the seconds that a row takes a task, by how long an answer takes and by the key's limit."""
        limit = self._api.requests_per_s
        by_limit = self.recipe.site.n_tasks / limit if limit else 0.0
        return max(self._seconds / self._api.concurrency, by_limit)

    def _vectors(self) -> list[Column]:
        return [column for column in self._columns if column.field.type == "vector"]

    def _checked(self, column: Column, value: Any) -> Any:
        """Return a value, of a vector as float32: all of a run have the length of preflight's."""
        if column.field.type != "vector":
            return value
        vector = np.array(value, dtype=np.float32)
        name = column.field.name
        dim = self._dims.get(name, len(vector))
        if len(vector) != dim or not dim:
            raise RowError("bad_answer", f"{name}: a vector of {len(vector)} values, others have {dim}")
        vectors, failures = check_vectors(vector[np.newaxis], normalize=self.recipe.normalize)
        if failures:
            raise failures[0]
        if name not in self._dims:
            self._dims[name] = dim
            options = {**dict(self.recipe.options), _DIMS: tuple(self._dims.items())}
            self.recipe = replace(self.recipe, options=tuple(options.items()))
        return vectors[0]

    def _values(self, column: Column, values: list[Any]) -> Values:
        if column.field.type != "vector":
            return values
        nothing = np.zeros(self._dims.get(column.field.name, 0), dtype=np.float32)
        return np.array([nothing if value is None else value for value in values], dtype=np.float32)


def _dims(recipe: Recipe) -> dict[str, int]:
    return dict(dict(recipe.options).get(_DIMS, ()))


def _make_pace(api: ApiFile, recipe: Recipe) -> Pace:
    """Return this process's part of the key's limits.

    The workers of an executor share theirs in its scratch folder, where Spark has told it and it is known how
    many executors there are; otherwise each task has its part.
    """
    site, scratch = recipe.site, os.environ.get("SPARK_LOCAL_DIRS", "").partition(",")[0]
    n_shares, path = site.n_tasks, None
    if site.n_executors and os.path.isdir(scratch):
        name = hashlib.sha256(f"{api.base_url} {api.key}".encode()).hexdigest()[:16]
        n_shares, path = site.n_executors, os.path.join(scratch, f"spark_embed-pace-{name}")

    def share(limit: float | None) -> float | None:
        return limit / n_shares if limit else None

    return Pace(path, share(api.requests_per_s), share(api.units_per_s))
