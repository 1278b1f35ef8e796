"""One part of an index: made of published files in one task, and searched; its rows are numbered through.

Runs on executors, and where searches are made. Beside the codes a part keeps the true neighbours, among its
own vectors, of the queries that recall is measured by: an index that grows need not compare all again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from spark_embed.errors import ConfigError, StorageError, one_line
from spark_embed.search.files import load, local_files, open_index, save, write_index
from spark_embed.search.kinds import cells_of, everywhere, search_params
from spark_embed.search.manifest import PARTS_NAME, RECALL_AT, Part
from spark_embed.search.training import queries_name, read_queries, trained_name
from spark_embed.search.vectors import Rows, Vectors, read_vectors
from spark_embed.storage import write_text

N_EXACT = RECALL_AT + 2
"""True neighbours that are kept of each query: it is in the index itself, and does not count; one more than
are asked for says whether others are as near."""


class Found(NamedTuple):
    """Neighbours of some queries, the nearest first; where there are fewer a row of -1.

    Attributes:
        scores: float32 (n, k), cosines.
        rows: int64 (n, k).
    """

    scores: NDArray[np.float32]
    rows: Rows


@dataclass(frozen=True)
class Work:
    """What makes a part; plain values.

    Attributes:
        index_dir, key: of the index, and of what it was trained to.
        part: to be made; its `n_vectors` is not known yet.
        paths: of its files.
        column, dim: of the vectors.
        n_threads: to use.
    """

    index_dir: str
    key: str
    part: Part
    paths: tuple[str, ...]
    column: str
    dim: int
    n_threads: int


def make_part(work: Work) -> None:
    """Write a part: its codes, the true neighbours, and as the proof that all is there, its record.

    Raises:
        StorageError: a file cannot be read or written.
    """
    faiss.omp_set_num_threads(work.n_threads)
    names = [trained_name(work.key), queries_name(work.key)]
    trained = local_files(work.index_dir, names)[names[0]]
    try:
        index = faiss.read_index(trained)
    except RuntimeError as exc:
        raise StorageError(
            f"{trained}: is broken; delete {work.index_dir} and index again: {one_line(exc)}"
        ) from exc
    queries = read_queries(work.index_dir, work.key).vectors
    exact = Found(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))
    kept: list[Rows] = []
    first = 0
    for path, file in zip(work.paths, work.part.files, strict=True):
        for rows, vectors in read_vectors(path, work.column, work.dim):
            if len(rows):
                index.add(vectors)
                kept.append(rows + first)
                exact = best_of([exact, _all_of(queries, vectors, kept[-1])], N_EXACT)
        first += file.n_rows
    numbers = np.concatenate(kept) if kept else np.empty(0, np.int64)
    place = _place(work.index_dir, work.part.name)
    n_bytes = {"exact.npz": save(f"{place}.exact.npz", scores=exact.scores, rows=exact.rows)}
    if len(numbers) != work.part.n_rows:
        n_bytes["rows.npz"] = save(f"{place}.rows.npz", rows=numbers)
    if isinstance(index, faiss.IndexRefine):  # of one file FAISS would map the shorter codes only
        n_bytes["refine.faiss"] = write_index(index.refine_index, f"{place}.refine.faiss")
        n_bytes["faiss"] = write_index(index.base_index, f"{place}.faiss")
    else:
        n_bytes["faiss"] = write_index(index, f"{place}.faiss")
    made = work.part.model_copy(update={"n_vectors": len(numbers), "n_bytes": n_bytes})
    write_text(f"{place}.json", made.model_dump_json() + "\n")


class OpenPart:
    """A part that is open to be searched; its codes stay on the disk until they are looked at.

    Attributes:
        part: its record.
        index: FAISS's.
        rows: of the part that have a vector, sorted; None for all.
    """

    def __init__(self, index_dir: str, part: Part, empty: Any) -> None:
        """Open it.

        Args:
            index_dir: of the index.
            part: its record.
            empty: FAISS's, of the same kind (`spark_embed.search.kinds.make_empty`).

        Raises:
            StorageError: a file is gone or broken.
        """
        self.part = part
        place = f"{PARTS_NAME}/{part.name}"
        has_gaps = part.n_vectors != part.n_rows
        is_refined = isinstance(empty, faiss.IndexRefine)
        names = [f"{place}.faiss", *([f"{place}.refine.faiss"] if is_refined else [])]
        names += [f"{place}.rows.npz"] if has_gaps else []
        found = local_files(index_dir, names)
        self.index = open_index(found[names[0]], has_cells=cells_of(empty) > 0)
        if is_refined:
            self._base, self._refine = self.index, open_index(found[names[1]], has_cells=False)
            self.index = faiss.IndexRefine(self._base, self._refine)
        self.rows: Rows | None = load(found[names[-1]])["rows"] if has_gaps else None

    def search(
        self, queries: Vectors, k: int, effort: int, allowed: NDArray[np.bool_] | None = None
    ) -> Found:
        """Return the `k` nearest of each query, fewer where the effort finds no more.

        Args:
            queries: float32 (n, dim), of length 1.
            k: at least 1.
            effort: how far to look: `spark_embed.search.kinds.efforts`.
            allowed: of each row whether it may be found; None for all.

        Raises:
            ConfigError: this kind of index cannot be searched so.
        """
        selector = None
        if allowed is not None:
            of_vectors = allowed if self.rows is None else allowed[self.rows]
            selector = faiss.IDSelectorBitmap(np.packbits(of_vectors, bitorder="little"))
        index = everywhere(self.index, effort)
        try:
            scores, ids = index.search(queries, k, params=search_params(index, effort, selector))
        except RuntimeError as exc:
            raise ConfigError(f"this kind of index cannot be searched so: {one_line(exc)}") from exc
        rows = ids if self.rows is None else np.where(ids < 0, -1, self.rows[np.maximum(ids, 0)])
        return Found(scores, rows)


def read_exact(index_dir: str, part: Part) -> Found:
    """Return the true neighbours of the queries among a part's vectors.

    Raises:
        StorageError: the file is gone or broken.
    """
    name = f"{PARTS_NAME}/{part.name}.exact.npz"
    loaded = load(local_files(index_dir, [name])[name])
    return Found(loaded["scores"], loaded["rows"])


def best_of(parts: Iterable[Found], k: int) -> Found:
    """Return the `k` best of each query among several findings."""
    found = list(parts)
    scores = np.concatenate([one.scores for one in found], axis=1)
    rows = np.concatenate([one.rows for one in found], axis=1)
    scores = np.where(rows < 0, -np.inf, scores).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Found(np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1))


def _all_of(queries: Vectors, vectors: Vectors, rows: Rows) -> Found:
    """Compare queries with all vectors."""
    scores = queries @ vectors.T
    k = min(N_EXACT, len(rows))
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return Found(np.take_along_axis(scores, best, 1), rows[best])


def _place(index_dir: str, name: str) -> str:
    return f"{index_dir}/{PARTS_NAME}/{name}"
