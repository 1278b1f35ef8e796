"""How good an index is: the neighbours that it finds against the true ones, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from spark_embed.search.kinds import effort_name, efforts, make_empty, max_effort
from spark_embed.search.manifest import RECALL_AT, Measured, Part
from spark_embed.search.part import N_EXACT, Found, OpenPart, best_of, read_exact
from spark_embed.search.training import read_queries
from spark_embed.search.vectors import Rows, Vectors

Scores = NDArray[np.float32]

TARGET_RECALL = 0.95
_GOOD_ENOUGH = 0.999
_N_TIMED = 50
_EPSILON = 1e-6


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
    opened = [OpenPart(index_dir, part, make_empty(factory, dim)) for part in parts]
    firsts = np.cumsum([0, *(part.n_rows for part in parts)])
    own = _own_numbers(queries.names, queries.files, queries.rows, parts, firsts)
    exact = [read_exact(index_dir, part) for part in parts]
    known = _without_own(best_of(map(_numbered, exact, firsts), N_EXACT), own)
    truth = Found(known.scores[:, :RECALL_AT], known.rows[:, :RECALL_AT])
    n_true = (truth.rows >= 0).sum(axis=1)
    ties = _ties(opened, firsts, queries.vectors, known)
    measured: list[Measured] = []
    for effort in efforts(opened[0].index):
        found = _without_own(_search(opened, firsts, queries.vectors, effort), own)
        recall = _recall(found, truth, ties)
        seconds = []
        for query in queries.vectors[:_N_TIMED]:
            started = time.perf_counter()
            _search(opened, firsts, query[None], effort)
            seconds.append(time.perf_counter() - started)
        p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
        measured.append(
            Measured(
                effort=effort,
                recall=round(recall, 4) if n_true.any() else None,
                p50_ms=round(p50, 3),
                p95_ms=round(p95, 3),
            )
        )
        if not n_true.any() or recall >= _GOOD_ENOUGH:
            break
    return Recall(measured, effort_name(opened[0].index), len(queries.vectors))


def _search(parts: Sequence[OpenPart], firsts: Rows, queries: Vectors, effort: int) -> Found:
    found = [part.search(queries, RECALL_AT + 1, effort) for part in parts]  # its own row is one
    return best_of(map(_numbered, found, firsts), RECALL_AT + 1)


def _recall(found: Found, truth: Found, ties: dict[int, Scores]) -> float:
    """Return which part of true neighbours is found; in place of one that others tie with any of them."""
    is_true = (found.rows[:, :, None] == truth.rows[:, None, :]).any(axis=2) & (found.rows >= 0)
    n_true = (truth.rows >= 0).sum(axis=1)
    for query, scores in ties.items():
        is_tied = (np.abs(found.scores[query][:, None] - scores) <= _EPSILON).any(axis=1)
        is_true[query] |= is_tied & (found.rows[query] >= 0)
    return float(np.minimum(is_true.sum(axis=1), n_true).sum() / max(1, n_true.sum()))


def _ties(parts: Sequence[OpenPart], firsts: Rows, queries: Vectors, known: Found) -> dict[int, Scores]:
    """Return, of queries whose last true neighbours are as near as the next, what the index scores those.

    Vectors that are the same have the same codes, and which of them is found is chance.
    """
    if known.rows.shape[1] <= RECALL_AT:
        return {}
    ties = {}
    last, following = known.scores[:, RECALL_AT - 1], known.scores[:, RECALL_AT]
    for query in np.flatnonzero((known.rows[:, RECALL_AT] >= 0) & (last - following <= _EPSILON)):
        is_tied = np.abs(known.scores[query] - last[query]) <= _EPSILON
        rows = known.rows[query][is_tied]
        found = []
        for part, first in zip(parts, firsts, strict=False):
            allowed = np.zeros(part.part.n_rows, dtype=np.bool_)
            allowed[rows[(rows >= first) & (rows < first + len(allowed))] - first] = True
            if allowed.any():
                found.append(
                    part.search(queries[query][None], len(rows), max_effort(part.index), allowed).scores[0]
                )
        ties[int(query)] = np.concatenate(found)
    return ties


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
