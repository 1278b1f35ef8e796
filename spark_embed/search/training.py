"""What all parts of an index begin with, learnt once from a sample; and the queries that measure recall.

Runs on the driver. Both are files of the index: a build that goes on, and one that adds, have the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from spark_embed.errors import ConfigError, StorageError, one_line
from spark_embed.search.files import load, local_files, save, write_index
from spark_embed.search.kinds import Kind, cells_of, efforts, make_empty, search_params
from spark_embed.search.vectors import DataSet, RowGroup, Rows, Vectors, list_groups, read_group
from spark_embed.storage import exists

logger = logging.getLogger(__name__)

N_QUERIES = 256
"""Enough to tell a recall@10 to half a per cent (one standard error at 0.95)."""

_READ_FACTOR = 4
"""So many times the sample is read for it: more, and it is from more places of a data set in some order."""

_SEED = 20


@dataclass(frozen=True)
class Queries:
    """Vectors of the data set that neighbours are looked for, not trained on.

    Attributes:
        vectors: float32 (n, dim).
        files: of each, the number of its file in `names`; rows: its row there.
        names: of files.
    """

    vectors: Vectors
    files: Rows
    rows: Rows
    names: tuple[str, ...]


def trained_name(key: str) -> str:
    """Return the name of the file with the empty index that is trained."""
    return f"trained-{key}.faiss"


def queries_name(key: str) -> str:
    """Return the name of the file with the queries."""
    return f"queries-{key}.npz"


def train(data: DataSet, dim: int, kind: Kind, index_dir: str, key: str) -> int | None:
    """Learn what the parts need, unless that is there; writes the two files.

    Returns:
        How many vectors there are, where they are fewer than the cells of the kind: nothing is written then.

    Raises:
        ConfigError: FAISS makes no such index of these vectors.
        StorageError: a file cannot be read or written.
    """
    if all(exists(f"{index_dir}/{name}") for name in (queries_name(key), trained_name(key))):
        return None
    sample, queries = draw(data, dim, kind.n_train)
    index = make_empty(kind.factory, dim)
    if len(sample) < cells_of(index):
        return len(sample)
    try:
        if not index.is_trained:
            logger.info("training %s on %s vectors", kind.factory, f"{len(sample):,}")
            index.train(sample)
        _try(index, queries.vectors)
    except RuntimeError as exc:
        with_n = f"with {len(sample):,} vectors to train on: " if kind.n_train else ""
        raise ConfigError(f"--factory {kind.factory}: FAISS fails at it {with_n}{one_line(exc)}") from exc
    names = np.array(queries.names, dtype=np.str_)
    to = f"{index_dir}/{queries_name(key)}"
    save(to, vectors=queries.vectors, files=queries.files, rows=queries.rows, names=names)
    write_index(index, f"{index_dir}/{trained_name(key)}")
    return None


def _try(index: Any, vectors: Vectors) -> None:
    """Do with a copy of an index what the parts will do, while nothing is made yet.

    Raises:
        RuntimeError: FAISS cannot.
    """
    copy = faiss.deserialize_index(faiss.serialize_index(index))
    for _ in range(2):
        copy.add(vectors)
    copy.search(vectors[:1], 1, params=search_params(copy, efforts(copy)[0]))


def read_queries(index_dir: str, key: str) -> Queries:
    """Return the queries.

    Raises:
        StorageError: the file cannot be read.
    """
    name = queries_name(key)
    try:
        found = load(local_files(index_dir, [name])[name])
    except StorageError as exc:
        raise StorageError(f"{exc}; delete {index_dir} and index again") from exc
    return Queries(found["vectors"], found["files"], found["rows"], tuple(map(str, found["names"])))


def draw(data: DataSet, dim: int, n_train: int) -> tuple[Vectors, Queries]:
    """Return vectors to train on and, apart from them, queries; from row groups all over the data set.

    Fewer than `n_train` only if there are no more: rows without a vector are made up for.
    """
    rng = np.random.default_rng(_SEED)
    n_wanted = n_train + N_QUERIES
    groups = _row_groups(data)
    shuffled = [groups[index] for index in rng.permutation(len(groups))]
    n_read, share = n_wanted, 0.0
    whole, place = np.empty((0, dim), np.float32), np.empty((0, 2), np.int64)
    while len(whole) < n_wanted and share < 1:
        ends = np.cumsum([group.n_rows for group in shuffled])
        chosen = shuffled[: int(np.searchsorted(ends, _READ_FACTOR * n_read)) + 1]
        share = min(1.0, 1.1 * n_read / sum(group.n_rows for group in chosen))
        whole, place = _drawn(data, dim, sorted(chosen), share, rng)
        n_read = n_read * max(2, n_wanted // max(1, len(whole)))
    order = rng.permutation(len(whole))
    # Of few vectors all are trained on, and asked for.
    queries, sample = order[:N_QUERIES], order[N_QUERIES:][:n_train]
    if len(sample) < min(n_train, len(whole)) // 2:
        sample = order[:n_train]
    names = tuple(file.name for file in data.files)
    return whole[sample], Queries(whole[queries], place[queries, 0], place[queries, 1], names)


def _drawn(
    data: DataSet, dim: int, groups: Sequence[RowGroup], share: float, rng: np.random.Generator
) -> tuple[Vectors, Rows]:
    """Return a share of the vectors of row groups, and of each its file and its row there."""
    vectors: list[Vectors] = []
    places: list[Rows] = []
    for group in groups:
        rows, some = read_group(data, group, dim)
        kept = np.sort(rng.permutation(len(rows))[: max(1, round(share * len(rows)))])
        vectors.append(some[kept])
        places.append(np.stack([np.full(len(kept), group.file), rows[kept]], axis=1))
    return np.concatenate(vectors), np.concatenate(places)


def _row_groups(data: DataSet) -> list[RowGroup]:
    return [group for number in range(len(data.files)) for group in list_groups(data, number)]
