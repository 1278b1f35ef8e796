"""How good an index is: the neighbours that it finds against the true ones, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from spark_embed.search.kinds import effort_name, efforts, is_refined
from spark_embed.search.manifest import RECALL_AT, Measured, Part
from spark_embed.search.part import N_EXACT, Found, OpenPart, best_of, read_exact
from spark_embed.search.training import read_queries
from spark_embed.search.vectors import Rows, Vectors

TARGET_RECALL = 0.95
_GOOD_ENOUGH = 0.999
_N_TIMED = 50


@dataclass(frozen=True)
class Recall:
    """What was measured.

    Attributes:
        efforts: in their order.
        effort_name: FAISS's word for them.
        n_queries: that were asked.
    """

    efforts: list[Measured]
    effort_name: str
    n_queries: int


def measure(index_dir: str, key: str, factory: str, dim: int, parts: Sequence[Part]) -> Recall:
    """Ask an index for the neighbours of its queries, with more and more effort.

    Raises:
        StorageError: a file of it cannot be read.
    """
    faiss.omp_set_num_threads(1)
    queries = read_queries(index_dir, key)
    opened = [OpenPart(index_dir, part, is_refined=is_refined(factory, dim)) for part in parts]
    firsts = np.cumsum([0, *(part.n_rows for part in parts)])
    own = _own_numbers(queries.names, queries.files, queries.rows, parts, firsts)
    exact = [read_exact(index_dir, part) for part in parts]
    truth = _without_own(best_of(map(_numbered, exact, firsts), N_EXACT), own)
    n_true = np.minimum(RECALL_AT, (truth.rows >= 0).sum(axis=1))
    measured: list[Measured] = []
    for effort in efforts(opened[0].index):
        found = _without_own(_search(opened, firsts, queries.vectors, effort), own)
        hits = (found.rows[:, :, None] == truth.rows[:, None, :]) & (truth.rows[:, None, :] >= 0)
        recall = float(hits.any(axis=1).sum() / max(1, n_true.sum()))
        seconds = []
        for query in queries.vectors[:_N_TIMED]:
            started = time.perf_counter()
            _search(opened, firsts, query[None], effort)
            seconds.append(time.perf_counter() - started)
        p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
        measured.append(
            Measured(effort=effort, recall=round(recall, 4), p50_ms=round(p50, 3), p95_ms=round(p95, 3))
        )
        if recall >= _GOOD_ENOUGH:
            break
    return Recall(measured, effort_name(opened[0].index), len(queries.vectors))


def _search(parts: Sequence[OpenPart], firsts: Rows, queries: Vectors, effort: int) -> Found:
    found = [part.search(queries, N_EXACT, effort) for part in parts]
    return best_of(map(_numbered, found, firsts), N_EXACT)


def _numbered(found: Found, first: int) -> Found:
    return Found(found.scores, np.where(found.rows < 0, -1, found.rows + first))


def _own_numbers(names: Sequence[str], files: Rows, rows: Rows, parts: Sequence[Part], firsts: Rows) -> Rows:
    """Return the number of each query's own row in the index; -2 if it is not there any more."""
    first_of = {}
    for part, first in zip(parts, firsts, strict=False):
        for file in part.files:
            first_of[file.name] = first
            first += file.n_rows
    starts = np.array([first_of.get(name, -1) for name in names])
    return np.where(starts[files] < 0, -2, starts[files] + rows)


def _without_own(found: Found, own: Rows) -> Found:
    """Leave each query's own row out, or where it was not found the last."""
    is_own = found.rows == own[:, None]
    is_own[:, -1] |= ~is_own.any(axis=1)
    order = np.argsort(is_own, axis=1, kind="stable")[:, :-1]
    return Found(np.take_along_axis(found.scores, order, 1), np.take_along_axis(found.rows, order, 1))
