"""Vectors with what says which of them is rather kept: by a column, largest first; else by shard and row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spark_embed.errors import ConfigError
from spark_embed.schema import SHARD, SHARD_ROW
from spark_embed.search.near import Pairs, first_same, join_pairs, near_pairs
from spark_embed.search.vectors import Rows, Vectors, read_column, read_vectors

_MAX_SHARD_ROWS = 1 << 40


class Ranked(NamedTuple):
    """Vectors, the one that is rather kept first.

    Attributes:
        numbers: int64 (n,), of their rows in the data set.
        worth: float64 (n,), the smaller is rather kept; of equal ones the smaller place.
        places: int64 (n,), by shard, then by row.
        vectors: float32 (n, dim), of length 1.
    """

    numbers: Rows
    worth: NDArray[np.float64]
    places: Rows
    vectors: Vectors


@dataclass(frozen=True)
class Source:
    """Published files to be read; plain values.

    Attributes:
        paths: of the files.
        firsts: the number of the first row of each.
        column, dim: of the vectors.
        keep: the column that says which row is rather kept; None for none.
        shards: names of all shards, sorted.
    """

    paths: tuple[str, ...]
    firsts: tuple[int, ...]
    column: str
    dim: int
    keep: str | None
    shards: tuple[str, ...]


def read_ranked(source: Source, n_rows: int) -> Iterator[Ranked]:
    """Yield the vectors of files, about so many at once.

    Raises:
        ConfigError: the column to keep by holds no numbers.
        StorageError: a file cannot be read.
    """
    waiting: list[Ranked] = []
    for path, first in zip(source.paths, source.firsts, strict=True):
        worth, places = _ranks_of(path, source.keep, source.shards)
        for rows, vectors in read_vectors(path, source.column, source.dim):
            waiting.append(Ranked(rows + first, worth[rows], places[rows], vectors))
            if sum(len(one.numbers) for one in waiting) >= n_rows:
                yield in_order(waiting)
                waiting = []
    if waiting:
        yield in_order(waiting)


def in_order(parts: Sequence[Ranked]) -> Ranked:
    """Return all vectors of some parts in their order."""
    numbers, worth, places, vectors = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((places, worth))
    return Ranked(numbers[order], worth[order], places[order], vectors[order])


def collapsed(ranked: Ranked) -> tuple[Ranked, Pairs]:
    """Return those that are not the same as one before them; and the others, each with that one."""
    first = first_same(ranked.vectors)
    is_first = first == np.arange(len(first))
    same, others = ranked.numbers[first[~is_first]], ranked.numbers[~is_first]
    return Ranked(*(array[is_first] for array in ranked)), Pairs(same, others, np.ones(len(same), np.float32))


def different_pairs(ranked: Ranked, threshold: float) -> Pairs:
    """Return the near pairs, by number, of vectors of which no two are the same (`collapsed`)."""
    found = near_pairs(ranked.vectors, np.arange(len(ranked.numbers)), threshold)
    return join_pairs([Pairs(ranked.numbers[found.first], ranked.numbers[found.second], found.scores)])


def worth_of(column: pa.Array, name: str) -> NDArray[np.float64]:
    """Return what a column to keep by says, the smaller is rather kept; nulls are not.

    Raises:
        ConfigError: it holds no numbers.
    """
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.int64() if column.type.bit_width == 64 else pa.int32())
    try:
        numbers = pc.negate(column.cast(pa.float64(), safe=False))
    except pa.ArrowException as exc:
        raise ConfigError(f"--keep {name}: holds {column.type}; it must hold numbers or times") from exc
    worth: NDArray[np.float64] = pc.fill_null(numbers, np.inf).to_numpy(zero_copy_only=False)
    return np.where(np.isnan(worth), np.inf, worth)


def places_of(shards: pa.Array, rows: pa.Array, names: Sequence[str]) -> Rows:
    """Return the place of rows among all, by shard and row there."""
    indices = pc.index_in(shards, value_set=pa.array(names, shards.type))
    number = pc.fill_null(indices, len(names)).to_numpy(zero_copy_only=False).astype(np.int64)
    place: Rows = number * _MAX_SHARD_ROWS + rows.to_numpy(zero_copy_only=False).astype(np.int64)
    return place


def _ranks_of(path: str, keep: str | None, names: Sequence[str]) -> tuple[NDArray[np.float64], Rows]:
    worth, places = [np.empty(0)], [np.empty(0, np.int64)]
    for batch in read_column(path, [SHARD, SHARD_ROW, *([keep] if keep else [])]):
        of_batch = worth_of(batch.column(2), keep) if keep else np.zeros(batch.num_rows)
        worth.append(of_batch)
        places.append(places_of(batch.column(0), batch.column(1), names))
    return np.concatenate(worth), np.concatenate(places)
