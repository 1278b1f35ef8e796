"""Vectors -> the pairs of them that are near, without comparing all with all; knows no file and no row.

Same vectors are one first; where very many are near each other the one that will be kept stands for them; the
others are compared inside cells, into which k-means cuts them, each vector being in a few.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from spark_embed.search.vectors import Rows, Vectors

EXACT_MAX = 20_000
"""Up to so many vectors all are compared with all."""

DENSE = 200
"""Of a vector with more neighbours than this only the pairs with the one that is kept are of use."""

_CELL_ROWS = 500
_TRAIN_PER_CELL = 50
_MAX_CELLS = 8
"""Cells that a vector is in, at most: docs/search.md has the recall of pairs with it."""

_BLOCK = 1024
_SEEDS = 256
_MAX_STARS = 1000
_SEED = 21


class Pairs(NamedTuple):
    """Two vectors each, by number, and their cosine; the smaller number first, none twice.

    Attributes:
        first, second: int64 (n,).
        scores: float32 (n,).
    """

    first: Rows
    second: Rows
    scores: NDArray[np.float32]


NO_PAIRS = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


class Cells(NamedTuple):
    """Which vectors are in which cells: an entry for each vector and cell.

    Attributes:
        rows, cells: int64 (n,).
        is_home: whether the cell is the vector's nearest.
    """

    rows: Rows
    cells: Rows
    is_home: NDArray[np.bool_]


def join_pairs(pairs: Sequence[Pairs]) -> Pairs:
    """Return all pairs, each once."""
    first, second, scores = map(np.concatenate, zip(NO_PAIRS, *pairs, strict=True))
    first, second = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((second, first))
    first, second, scores = first[order], second[order], scores[order]
    is_new = np.ones(len(first), dtype=np.bool_)
    is_new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return Pairs(first[is_new], second[is_new], np.minimum(scores[is_new], np.float32(1)))


def first_same(vectors: Vectors) -> Rows:
    """Return of each vector the place of the first that is the same, bit by bit: its own if there is none."""
    weights = _hash_weights(vectors.shape[1])
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(vectors), _BLOCK)]
    hashes = [vectors[block].view(np.uint32).astype(np.uint64) @ weights for block in blocks]
    whole = np.concatenate([np.empty(0, np.uint64), *hashes])
    _, firsts, inverse = np.unique(whole, return_index=True, return_inverse=True)
    first = firsts[inverse].astype(np.int64)
    for block in blocks:
        is_same = (vectors[block] == vectors[first[block]]).all(axis=1)
        first[block] = np.where(is_same, first[block], np.arange(len(vectors))[block])
    return first


def near_pairs(vectors: Vectors, ranks: Rows, threshold: float) -> Pairs:
    """Return the pairs of vectors whose cosine is the threshold or more; of dense ones a part.

    Where a vector has more than about `DENSE` neighbours, one of which is before all its own in rank, so that
    it will be kept, those have the pair with it alone: none of them will be.

    Args:
        vectors: float32 (n, dim), of length 1.
        ranks: int64 (n,), all different; the smaller is rather kept.
        threshold: of the cosine.
    """
    stars, is_left = _stars(vectors, ranks, threshold)
    left = np.flatnonzero(is_left)
    return join_pairs([stars, _numbered(_pairs_of(vectors[left], threshold), left)])


def learn_centres(sample: Vectors, n_cells: int) -> Vectors:
    """Return the centres of cells, of length 1."""
    kmeans = faiss.Kmeans(sample.shape[1], n_cells, niter=10, spherical=True, seed=_SEED, verbose=False)
    kmeans.cp.min_points_per_centroid = 1  # it would warn
    kmeans.train(sample)
    centres: Vectors = kmeans.centroids
    return centres


def near_cells(vectors: Vectors, centres: Vectors, threshold: float, n_cells: int = _MAX_CELLS) -> Cells:
    """Return the cells that vectors are in: the nearest, and others in which a near one of them may be.

    By the angles: who is in a cell and near to a vector is not further from its centre than from that of the
    vector's own cell; so no more than twice the threshold's angle lies between the two for the vector.
    """
    cosines, cells = faiss.knn(vectors, centres, min(n_cells, len(centres)), faiss.METRIC_INNER_PRODUCT)
    angles = np.arccos(np.clip(cosines, -1, 1))
    is_wanted = angles <= angles[:, :1] + 2 * math.acos(threshold)
    is_wanted[:, 0] = True
    rows, places = np.nonzero(is_wanted)
    return Cells(rows.astype(np.int64), cells[rows, places], places == 0)


def _pairs_of(vectors: Vectors, threshold: float) -> Pairs:
    n = len(vectors)
    if n <= EXACT_MAX:
        return _compared(vectors, np.ones(n, dtype=np.bool_), threshold)
    n_cells = n // _CELL_ROWS
    rng = np.random.default_rng(_SEED)
    sample = vectors[np.sort(rng.choice(n, min(n, n_cells * _TRAIN_PER_CELL), replace=False))]
    found = near_cells(vectors, learn_centres(sample, n_cells), threshold)
    order = np.argsort(found.cells, kind="stable")
    bounds = np.searchsorted(found.cells[order], np.arange(n_cells + 1))
    pairs = []
    for start, end in itertools.pairwise(bounds):
        inside = found.rows[order[start:end]]
        if len(inside) > EXACT_MAX and len(inside) < 0.9 * n:
            pairs.append(_numbered(_pairs_of(vectors[inside], threshold), inside))
        elif len(inside) > 1:
            is_home = found.is_home[order[start:end]]
            pairs.append(_numbered(_compared(vectors[inside], is_home, threshold), inside))
    return join_pairs(pairs)


def _compared(vectors: Vectors, is_home: NDArray[np.bool_], threshold: float) -> Pairs:
    """Compare the vectors that are at home with all, in blocks."""
    pairs = []
    home = np.flatnonzero(is_home)
    for start in range(0, len(home), _BLOCK):
        block = home[start : start + _BLOCK]
        scores = vectors[block] @ vectors.T
        rows, others = np.nonzero(scores >= threshold)
        # Of two that are at home the pair is met twice.
        is_once = (block[rows] < others) | ((block[rows] != others) & ~is_home[others])
        rows, others = rows[is_once], others[is_once]
        pairs.append(Pairs(block[rows], others.astype(np.int64), scores[rows, others]))
    return join_pairs(pairs)


def _stars(vectors: Vectors, ranks: Rows, threshold: float) -> tuple[Pairs, NDArray[np.bool_]]:
    """Find those that will be kept for very many others; returns their pairs, and who is left."""
    rng = np.random.default_rng(_SEED)
    is_left = np.ones(len(vectors), dtype=np.bool_)
    pairs: list[Pairs] = []
    while len(pairs) < _MAX_STARS and is_left.sum() > DENSE:
        left = np.flatnonzero(is_left)
        seeds = rng.choice(left, min(_SEEDS, len(left)), replace=False)
        is_dense = np.concatenate(
            [
                ((vectors[some] @ vectors.T >= threshold) & is_left).sum(axis=1) > DENSE
                for some in np.array_split(seeds, max(1, len(seeds) // 64))
            ]
        )
        n_before = len(pairs)
        for seed in seeds[is_dense]:
            if not is_left[seed]:
                continue
            kept, near, scores = _climb(vectors, ranks, is_left, threshold, seed)
            others = near[near != kept]
            pairs.append(Pairs(np.full(len(others), kept), others, scores[others]))
            is_left[near] = False
        if len(pairs) == n_before:
            break
    return join_pairs(pairs), is_left


def _climb(
    vectors: Vectors, ranks: Rows, is_left: NDArray[np.bool_], threshold: float, row: int
) -> tuple[int, Rows, NDArray[np.float32]]:
    """Go from a vector to the best of its neighbours, until it is the best itself; returns those, and it."""
    while True:
        scores = vectors @ vectors[row]
        near = np.flatnonzero(((scores >= threshold) & is_left) | (np.arange(len(vectors)) == row))
        best = int(near[np.argmin(ranks[near])])
        if best == row:
            return row, near.astype(np.int64), scores
        row = best


def _numbered(pairs: Pairs, numbers: Rows) -> Pairs:
    return Pairs(numbers[pairs.first], numbers[pairs.second], pairs.scores)


def _hash_weights(dim: int) -> NDArray[np.uint64]:
    return np.random.default_rng(_SEED).integers(1, 1 << 63, dim, dtype=np.uint64) | np.uint64(1)
