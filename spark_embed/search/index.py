"""Index: an index that is open, asked for the neighbours of vectors, and what the data set says of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spark_embed.errors import ConfigError, ResumeError
from spark_embed.schema import IMAGE_ID, SHARD, SHARD_ROW
from spark_embed.search.build import INDEX_NAME
from spark_embed.search.kinds import make_empty, max_effort
from spark_embed.search.manifest import MANIFEST_NAME, Manifest, existing_manifest
from spark_embed.search.part import Found, OpenPart, best_of
from spark_embed.search.rows import KEYS, IndexedRows, Mask
from spark_embed.search.vectors import DataSet, Rows, Vectors, read_data_set, take_vectors, unit_vectors
from spark_embed.search.where import Where
from spark_embed.storage import exists, folder_path

logger = logging.getLogger(__name__)

_OVER_FETCH = 10
_SMALL = 100_000
"""Of so many rows a condition is asked first; of more, first of the nearest alone."""

_KEPT_CONDITIONS = 8


@dataclass(frozen=True)
class Hit:
    """A row that was found.

    Attributes:
        score: the cosine of its vector and the query's, by the index's codes.
        image_id, shard, shard_row: which it is.
        number: of the row in the index, as `IndexedRows.locate` takes it.
        columns: the data set's own, by name.
    """

    score: float
    image_id: str
    shard: str
    shard_row: int
    number: int
    columns: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        key = {IMAGE_ID: self.image_id, SHARD: self.shard, SHARD_ROW: self.shard_row}
        return {"score": round(self.score, 6), **key, "columns": _without_nan(dict(self.columns))}


class Index:
    """An index that is open. Its codes stay on the disk until a search looks at them.

    Attributes:
        folder: of the index.
        manifest: what it holds.
        data: the data set, as it is now.
        rows: what it numbers, in the files of the data set.
    """

    def __init__(self, folder: str, manifest: Manifest, data: DataSet) -> None:
        self.folder = folder
        self.manifest = manifest
        self.data = data
        empty = make_empty(manifest.factory, manifest.dim)
        self._parts = [OpenPart(folder, part, empty) for part in manifest.parts]
        self._firsts = np.cumsum([0, *(part.n_rows for part in manifest.parts)])
        self.rows = IndexedRows(data, [file for part in manifest.parts for file in part.files])
        self._masks: dict[str, list[Mask]] = {}

    @classmethod
    def open(cls, uri: str) -> Index:
        """Open an index.

        Args:
            uri: its folder, or the output folder that it lies in.

        Raises:
            ConfigError: there is none, or its data set is gone.
            ResumeError: it is broken, or of vectors that are not there any more.
            StorageError: a file of it cannot be read.
        """
        folder = folder_path(uri, "INDEX_DIR")
        if not exists(f"{folder}/{MANIFEST_NAME}") and exists(f"{folder}/{INDEX_NAME}/{MANIFEST_NAME}"):
            folder = f"{folder}/{INDEX_NAME}"
        manifest = existing_manifest(folder)
        data = read_data_set(manifest.data_root(folder), manifest.column)
        if (data.run_id, data.fingerprint) != (manifest.run_id, manifest.fingerprint):
            raise ResumeError(f"{folder}: {data.root} holds other vectors by now: index again")
        if not data.files:
            raise ConfigError(f"{data.root}: has no rows any more: nothing can be searched")
        index = cls(folder, manifest, data)
        if index.rows.n_gone or index.rows.n_new:
            logger.warning(
                "%s: the data set has changed: %d files are new and not searched, %d are gone; index again",
                folder,
                index.rows.n_new,
                index.rows.n_gone,
            )
        return index

    def search(
        self,
        vector: Sequence[float] | NDArray[Any],
        k: int = 20,
        where: str | Where | None = None,
        *,
        columns: Sequence[str] | None = None,
        effort: int | None = None,
    ) -> list[Hit]:
        """Return the `k` rows whose vectors are nearest, the nearest first; fewer only if there are no more.

        Args:
            vector: (dim,), of any length but 0.
            k: at least 1.
            where: a condition on the data set's own columns, in SQL; None for none.
            columns: of the data set, to be read of each hit; None for all.
            effort: how far to look; None for what the build has found to suffice.

        Raises:
            ConfigError: the vector is of another length, or the condition is none.
            StorageError: a file cannot be read.
        """
        query = self._checked(vector)
        if k < 1:
            raise ConfigError(f"-k {k}: must be 1 or more")
        k = min(k, self.manifest.n_vectors)
        effort = effort or self.manifest.effort
        if where is None:
            return self._hits(self._nearest(query, k, effort, self._there), columns)
        condition = self._condition(where)
        if self.manifest.n_rows > _SMALL and condition.text not in self._masks:
            n_most = min(k * _OVER_FETCH, self.manifest.n_vectors)
            found = self._nearest(query, n_most, effort, self._there)
            is_row = found.rows[0] >= 0  # there may be fewer
            found = Found(found.scores[:, is_row], found.rows[:, is_row])
            kept = condition.keep(self.rows.read(found.rows[0], condition.columns))
            if kept.sum() >= k and kept.mean() >= 1 / _OVER_FETCH:
                return self._hits(Found(found.scores[:, kept][:, :k], found.rows[:, kept][:, :k]), columns)
        return self._hits(self._nearest(query, k, effort, self._allowed(condition)), columns)

    def sample(
        self, k: int, where: str | Where | None = None, *, columns: Sequence[str] | None = None
    ) -> list[Hit]:
        """Return up to `k` rows with a vector from all over the data set, in its order.

        Raises:
            ConfigError, StorageError: as `search`.
        """
        masks = self._there if where is None else self._allowed(self._condition(where))
        there = self._vectors_of(masks)
        n_there = self.manifest.n_rows if there is None else len(there)
        places = np.linspace(0, max(0, n_there - 1), min(k, n_there)).astype(np.int64)
        numbers = (places if there is None else there[places]).reshape(1, -1)
        return self._hits(Found(np.ones(numbers.shape, np.float32), numbers), columns)

    def search_vectors(self, queries: Vectors, k: int, effort: int | None = None) -> Found:
        """Return the nearest of many vectors, without what the data set says of them.

        Args:
            queries: float32 (n, dim), of length 1.
            k: at least 1.
            effort: as of `search`.

        Returns:
            Rows by their numbers (`IndexedRows.locate`).
        """
        return self._nearest(queries, k, effort or self.manifest.effort, self._there)

    def vector_of(self, number: int) -> Vectors:
        """Return the stored vector of a row, float32 (dim,), of length 1.

        Raises:
            ConfigError: it has none.
            StorageError: its file cannot be read.
        """
        name, row = self.rows.locate(number)
        place = int(np.searchsorted(self._firsts, number, side="right")) - 1
        rows = self._parts[place].rows
        if rows is not None and not np.isin(number - self._firsts[place], rows):
            raise ConfigError(f"{name}, row {row}: this row has no vector: nothing is near it")
        vectors = take_vectors(self.data.path(name), self.data.column, [row], self.manifest.dim)
        return vectors.reshape(-1)

    def hit(self, number: int, columns: Sequence[str] | None = None) -> Hit:
        """Return what the data set says of a row.

        Raises:
            StorageError: its file cannot be read.
        """
        return self._hits(Found(np.ones((1, 1), np.float32), np.array([[number]])), columns)[0]

    def _condition(self, where: str | Where) -> Where:
        return where if isinstance(where, Where) else Where(where, self.rows.schema)

    def _checked(self, vector: Sequence[float] | NDArray[Any]) -> Vectors:
        query = np.asarray(vector, dtype=np.float32).reshape(1, -1)
        if query.shape[1] != self.manifest.dim:
            raise ConfigError(
                f"a vector of {query.shape[1]} numbers: those of {self.folder} have {self.manifest.dim}, "
                "so it is another model's"
            )
        is_good, query = unit_vectors(query)
        if not is_good.all():
            raise ConfigError("a vector of zeros, or with NaN, has no direction: nothing is near it")
        return query

    def _nearest(self, queries: Vectors, k: int, effort: int, masks: Sequence[Mask] | None) -> Found:
        """Look in all parts; with masks further and further, until all that are wanted are found."""
        n_there = self.manifest.n_vectors if masks is None else int(sum(mask.sum() for mask in masks))
        most = max(max_effort(part.index) for part in self._parts)
        if masks is not None and n_there:
            effort = min(most, effort * max(1, self.manifest.n_rows // n_there))
        while True:
            found = best_of(
                (
                    Found(one.scores, np.where(one.rows < 0, -1, one.rows + first))
                    for part, first, mask in zip(
                        self._parts, self._firsts, masks or repeat(None), strict=False
                    )
                    for one in [part.search(queries, k, effort, mask)]
                ),
                k,
            )
            n_found = (found.rows >= 0).sum(axis=1).min()
            if n_found >= min(k, n_there) or effort >= most:
                return found
            effort = min(most, effort * 4)

    @cached_property
    def _there(self) -> list[Mask] | None:
        """Return of each part which rows are still published; None for all."""
        return self._by_part(self.rows.there()) if self.rows.n_gone else None

    def _vectors_of(self, masks: Sequence[Mask] | None) -> Rows | None:
        """Return the numbers of the rows that masks leave and that have a vector; None for all."""
        if masks is None and all(part.rows is None for part in self._parts):
            return None
        numbers = []
        for place, part in enumerate(self._parts):
            rows = np.arange(part.part.n_rows) if part.rows is None else part.rows
            numbers.append(self._firsts[place] + (rows if masks is None else rows[masks[place][rows]]))
        return np.concatenate(numbers)

    def _allowed(self, condition: Where) -> list[Mask]:
        """Return of each part for which rows a condition holds; kept for the next search."""
        if condition.text not in self._masks:
            while len(self._masks) >= _KEPT_CONDITIONS:
                self._masks.pop(next(iter(self._masks)))
            self._masks[condition.text] = self._by_part(self.rows.holds(condition))
        return self._masks[condition.text]

    def _by_part(self, mask: Mask) -> list[Mask]:
        return np.split(mask, self._firsts[1:-1])

    def _hits(self, found: Found, columns: Sequence[str] | None) -> list[Hit]:
        wanted = self.rows.schema.names if columns is None else columns
        if unknown := set(wanted).difference(self.rows.schema.names):
            raise ConfigError(
                f"--columns {sorted(unknown)[0]}: there are {', '.join(self.rows.schema.names)}"
            )
        own = [name for name in wanted if name not in KEYS]
        numbers = found.rows[0][found.rows[0] >= 0]
        rows = self.rows.read(numbers, [*KEYS, *own]).to_pylist()
        return [
            Hit(float(score), row.pop(IMAGE_ID), row.pop(SHARD), row.pop(SHARD_ROW), int(number), row)
            for score, number, row in zip(found.scores[0], numbers, rows, strict=False)
        ]


def _without_nan(value: Any) -> Any:
    """Return a value with null in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
