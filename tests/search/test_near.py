"""near_pairs and clusters: what comparing all with all gives, at less, and without chains."""

import numpy as np
import pytest

from spark_embed.search import near
from spark_embed.search.clusters import make_clusters
from spark_embed.search.near import Pairs, first_same, near_pairs

from support.vector_sets import clustered


def near_to(vectors: np.ndarray, cosine: float, seed: int = 5) -> np.ndarray:
    """Of each vector one that has this cosine with it."""
    noise = np.random.default_rng(seed).normal(size=vectors.shape)
    noise -= (noise * vectors).sum(axis=1, keepdims=True) * vectors
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return (cosine * vectors + np.sqrt(1 - cosine**2) * noise).astype(np.float32)


def all_with_all(vectors: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    rows, others = np.nonzero(vectors @ vectors.T >= threshold)
    return {(row, other) for row, other in zip(rows.tolist(), others.tolist(), strict=True) if row < other}


def found_in(pairs: Pairs) -> set[tuple[int, int]]:
    found = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert len(found) == len(set(found))
    return set(found)


def greedy(vectors: np.ndarray, ranks: np.ndarray, threshold: float) -> list[int]:
    """The rows that are kept: row after row, by the whole matrix."""
    is_near = vectors @ vectors.T >= threshold
    kept, is_taken = [], np.zeros(len(vectors), dtype=bool)
    for row in np.argsort(ranks):
        if not is_taken[row]:
            kept.append(int(row))
            is_taken |= is_near[row]
    return kept


def clusters_of(pairs: Pairs, ranks: np.ndarray):
    none = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    return make_clusters(pairs, none, ranks)


def test_cells_find_what_a_comparison_of_all_with_all_finds(monkeypatch):
    some = clustered(2500, dim=24)
    vectors = np.concatenate([some, near_to(some[:400], 0.951), near_to(some[:400], 0.99, 6)])
    truth = all_with_all(vectors, 0.95)
    ranks = np.arange(len(vectors))
    assert found_in(near_pairs(vectors, ranks, 0.95)) == truth  # few: in one piece
    compared = []
    original = near._compared
    monkeypatch.setattr(
        near,
        "_compared",
        lambda some, is_home, t: compared.append(is_home.sum() * len(some)) or original(some, is_home, t),
    )
    monkeypatch.setattr(near, "EXACT_MAX", 1000)
    monkeypatch.setattr(near, "_CELL_ROWS", 100)
    found = found_in(near_pairs(vectors, ranks, 0.95))
    assert found <= truth
    assert len(found) >= 0.99 * len(truth)
    assert sum(compared) < 0.4 * len(vectors) ** 2


@pytest.mark.parametrize("seed", [0, 1])
def test_very_many_near_ones_cost_a_pair_each_and_the_same_are_kept(seed, monkeypatch):
    monkeypatch.setattr(near, "DENSE", 20)
    white = near_to(np.repeat(clustered(1), 3000, axis=0), 0.99, seed)
    grey = near_to(np.repeat(clustered(1, 7), 2000, axis=0), 0.97, seed)
    vectors = np.concatenate([clustered(500), white, grey])
    ranks = np.random.default_rng(seed).permutation(len(vectors))
    pairs = near_pairs(vectors, ranks, 0.95)
    assert len(pairs.first) < 3 * len(vectors)
    kept = clusters_of(pairs, ranks).kept
    assert sorted(set(kept.tolist())) == sorted(greedy(vectors, ranks, 0.95))
    assert ((vectors * vectors[kept]).sum(axis=1) >= 0.95 - 1e-6).all()


def test_the_first_of_the_same_vectors_stands_for_them():
    vectors = clustered(6)[[0, 1, 0, 2, 1, 1]]
    assert first_same(vectors).tolist() == [0, 1, 0, 3, 1, 1]
    almost = vectors.copy()
    almost[2, 5] = np.nextafter(almost[2, 5], np.float32(2))
    assert first_same(almost).tolist() == [0, 1, 2, 3, 1, 1]


def test_a_chain_is_no_cluster():
    angles = np.radians([0, 15, 30, 45])  # neighbours are near (0.966), the next but one is not (0.866)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    pairs = near_pairs(vectors, np.arange(4), 0.95)
    assert found_in(pairs) == {(0, 1), (1, 2), (2, 3)}
    assert clusters_of(pairs, np.arange(4)).kept.tolist() == [0, 0, 2, 2]
    assert clusters_of(pairs, np.array([1, 0, 2, 3])).kept.tolist() == [1, 1, 1, 3]
