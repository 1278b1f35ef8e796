"""What all parts of an index begin with, learnt once from a sample; and the queries that measure recall.

Runs on the driver. Both are files of the index: a build that goes on, and one that adds, have the same.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from spark_embed.search.files import local_files, write_index
from spark_embed.search.kinds import Kind, make_empty
from spark_embed.search.vectors import DataSet, RowGroup, Rows, Vectors, list_groups, read_group
from spark_embed.storage import exists, replaced_file

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


def train(data: DataSet, dim: int, kind: Kind, index_dir: str, key: str) -> None:
    """Learn what the parts need, unless that is there; writes the two files.

    Raises:
        ConfigError: FAISS makes no such index.
        StorageError: a file cannot be read or written.
    """
    if all(exists(f"{index_dir}/{name}") for name in (queries_name(key), trained_name(key))):
        return
    sample, queries = draw(data, dim, kind.n_train)
    index = make_empty(kind.factory, dim)
    if not index.is_trained:
        logger.info("training %s on %s vectors", kind.factory, f"{len(sample):,}")
        index.train(sample)
    with replaced_file(f"{index_dir}/{queries_name(key)}") as path, open(path, "wb") as file:
        names = np.array(queries.names, dtype=np.str_)
        np.savez(file, vectors=queries.vectors, files=queries.files, rows=queries.rows, names=names)
    write_index(index, f"{index_dir}/{trained_name(key)}")


def read_queries(index_dir: str, key: str) -> Queries:
    """Return the queries.

    Raises:
        StorageError: the file cannot be read.
    """
    name = queries_name(key)
    with np.load(local_files(index_dir, [name])[name], allow_pickle=False) as found:
        return Queries(found["vectors"], found["files"], found["rows"], tuple(map(str, found["names"])))


def draw(data: DataSet, dim: int, n_train: int) -> tuple[Vectors, Queries]:
    """Return vectors to train on and, apart from them, queries; from row groups all over the data set."""
    rng = np.random.default_rng(_SEED)
    n_wanted = n_train + N_QUERIES
    groups = _row_groups(data)
    chosen, n_rows = [], 0
    for index in rng.permutation(len(groups)):
        if n_rows >= _READ_FACTOR * n_wanted:
            break
        chosen.append(groups[index])
        n_rows += groups[index].n_rows
    share = min(1.0, 1.1 * n_wanted / n_rows)  # some rows may have no vector
    vectors: list[Vectors] = []
    places: list[Rows] = []
    for group in sorted(chosen):
        rows, some = read_group(data, group, dim)
        kept = np.sort(rng.permutation(len(rows))[: max(1, round(share * len(rows)))])
        vectors.append(some[kept])
        places.append(np.stack([np.full(len(kept), group.file), rows[kept]], axis=1))
    whole, place = np.concatenate(vectors), np.concatenate(places)
    order = rng.permutation(len(whole))
    # Of few vectors all are trained on, and asked for.
    queries, sample = order[:N_QUERIES], order[N_QUERIES:][:n_train]
    if len(sample) < min(n_train, len(whole)) // 2:
        sample = order[:n_train]
    names = tuple(file.name for file in data.files)
    return whole[sample], Queries(whole[queries], place[queries, 0], place[queries, 1], names)


def _row_groups(data: DataSet) -> list[RowGroup]:
    return [group for number in range(len(data.files)) for group in list_groups(data, number)]
