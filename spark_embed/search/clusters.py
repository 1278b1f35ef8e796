"""Near pairs -> clusters without chains: each member is near to the one that is kept."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spark_embed.search.near import Pairs
from spark_embed.search.vectors import Rows


class Clusters(NamedTuple):
    """Of each row that has a near one: which row is kept for it, and how near that is.

    Attributes:
        kept: int64 (n,), places of rows; a row's own where it is kept.
        scores: float32 (n,); 1 where it is kept.
    """

    kept: Rows
    scores: NDArray[np.float32]


def make_clusters(pairs: Pairs, same: Pairs, ranks: Rows) -> Clusters:
    """Go through the rows in their rank: one that is not taken is kept, and takes those near it that are not.

    Args:
        pairs: by places of rows.
        same: rows of same vectors, each (second) with the one (first) that is before it in rank, which may
            itself be second to another.
        ranks: int64 (n,), of each row.
    """
    n = len(ranks)
    starts, neighbours, scores = _adjacency(pairs, n)
    kept = np.full(n, -1, dtype=np.int64)
    found = np.ones(n, dtype=np.float32)
    is_second = np.zeros(n, dtype=np.bool_)
    is_second[same.second] = True
    for row in np.argsort(ranks, kind="stable"):
        if is_second[row] or kept[row] >= 0:
            continue
        kept[row] = row
        near = slice(starts[row], starts[row + 1])
        is_free = kept[neighbours[near]] < 0
        taken = neighbours[near][is_free]
        kept[taken] = row
        found[taken] = scores[near][is_free]
    first = first_of_same(same, n)
    others = np.flatnonzero(is_second)
    kept[others], found[others] = kept[first[others]], found[first[others]]
    return Clusters(kept, found)


def first_of_same(same: Pairs, n: int) -> Rows:
    """Return of each place that of the first row with the same vector."""
    first = np.arange(n)
    first[same.second] = same.first
    while (first != (further := first[first])).any():
        first = further
    return first


def _adjacency(pairs: Pairs, n: int) -> tuple[Rows, Rows, NDArray[np.float32]]:
    """Return where the neighbours of each row begin; those; and how near they are."""
    rows = np.concatenate([pairs.first, pairs.second])
    others = np.concatenate([pairs.second, pairs.first])
    order = np.argsort(rows, kind="stable")
    starts = np.searchsorted(rows[order], np.arange(n + 1))
    return starts, others[order], np.concatenate([pairs.scores, pairs.scores])[order]
