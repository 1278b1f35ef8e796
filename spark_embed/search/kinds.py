"""Which kind of FAISS index suits so many vectors and so much memory; and how far it looks for neighbours.

Knows no file. The figures of recall are what builds of photographs' vectors have measured (docs/search.md);
each build measures its own.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import faiss

from spark_embed.errors import ConfigError, one_line

FLAT_MAX = 20_000
"""Up to so many vectors comparing with all of them takes a few milliseconds."""

GRAPH_MAX = 500_000
"""Up to so many vectors a graph is soon made, and the fastest to search."""

_GRAPH_MIN_CELLS = 1 << 16
"""From so many cells on finding the nearest is itself a search."""

_TRAIN_PER_CELL = 50
"""Vectors that a cell's centre is learnt from; FAISS warns below 39
(https://github.com/facebookresearch/faiss/wiki/Faiss-building-blocks:-clustering,-PCA,-quantization)."""

_REFINE_FACTOR = 8
"""Of candidates by short codes so many times k are compared by the longer ones."""


@dataclass(frozen=True)
class Kind:
    """A kind of index.

    Attributes:
        factory: FAISS's name of it (index_factory).
        says: the line for people: how many bytes, what to expect.
        n_train: vectors that it is trained on; 0 for none.
    """

    factory: str
    says: str
    n_train: int


def default_memory() -> int:
    """Return what an index may take of this machine's memory without being told: half, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def choose_kind(n: int, dim: int, max_bytes: int) -> Kind:
    """Return the kind for `n` vectors of `dim` floats that may take `max_bytes` of memory when searched."""
    if n <= FLAT_MAX:
        return Kind("Flat", f"{n * dim * 4 / 1e6:,.0f} MB; exact", 0)
    n_bytes = n * (dim + 8 * 32 + 16)  # two links of four bytes for each of 32 neighbours
    if n <= GRAPH_MAX and n_bytes <= max_bytes:
        return Kind("HNSW32,SQ8", f"{n_bytes / 1e9:,.2f} GB; a recall@10 of 0.97 and more", min(n, 20_000))
    n_cells = 1 << max(6, min(18, round(math.log2(2 * math.sqrt(n)))))
    graph = "_HNSW32" if n_cells >= _GRAPH_MIN_CELLS else ""
    n_train = min(n, n_cells * _TRAIN_PER_CELL, max(n_cells, max_bytes // 2 // (4 * dim)))
    cells = f"IVF{n_cells}{graph}"
    n_bytes = n * (dim + 8)
    if n_bytes <= max_bytes:
        return Kind(f"{cells},SQ8", f"{n_bytes / 1e9:,.2f} GB; a recall@10 of 0.97 and more", n_train)
    n_short = n * (dim // 8 + 16)
    says = f"{n_short / 1e9:,.2f} GB, {n * dim / 1e9:,.2f} GB stay on disk; a recall@10 of 0.95 and more"
    return Kind(f"{cells},RaBitQ,Refine(SQ8)", says, n_train)


def given_kind(factory: str, n: int, dim: int) -> Kind:
    """Return the kind that a FAISS factory string names.

    Raises:
        ConfigError: there is none such for vectors of this length.
    """
    index = make_empty(factory, dim)
    n_cells = cells_of(index)
    n_train = min(n, max(_TRAIN_PER_CELL * n_cells, 20_000)) if not index.is_trained else 0
    return Kind(factory, "by --factory; its recall is measured below", n_train)


def make_empty(factory: str, dim: int) -> Any:
    """Return an empty index; neighbours by inner product, which of vectors of length 1 is the cosine.

    Raises:
        ConfigError: FAISS makes none of this name.
    """
    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as exc:
        raise ConfigError(f"--factory {factory}: FAISS makes no such index: {one_line(exc)}") from exc


def cells_of(index: Any) -> int:
    """Return the number of cells of an index that has cells, else 0."""
    ivf = faiss.try_extract_index_ivf(index)
    return int(ivf.nlist) if ivf is not None else 0


def max_effort(index: Any) -> int:
    """Return the effort at which an index looks everywhere; 1 where each search does."""
    if n_cells := cells_of(index):
        return n_cells
    return max(1, int(index.ntotal)) if isinstance(_inner(index), faiss.IndexHNSW) else 1


def efforts(index: Any) -> list[int]:
    """Return the efforts to measure: cells to look into (nprobe), or nodes to keep in view (efSearch)."""
    if n_cells := cells_of(index):
        return [effort for effort in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if effort <= n_cells]
    return [16, 32, 64, 128, 256, 512] if isinstance(_inner(index), faiss.IndexHNSW) else [1]


def effort_name(index: Any) -> str:
    """Return FAISS's word for what `effort` is."""
    return "nprobe" if cells_of(index) else "efSearch" if efforts(index) != [1] else "-"


def search_params(index: Any, effort: int, selector: Any = None) -> Any:
    """Return FAISS's parameters of a search with an effort, among the rows that a selector lets through.

    Raises:
        ConfigError: this kind of index takes none.
    """
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        inner = search_params(index.index, effort, selector)
        return faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexRefine):
        inner = search_params(index.base_index, effort, selector)
        return faiss.IndexRefineSearchParameters(k_factor=_REFINE_FACTOR, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=min(effort, index.nlist), sel=selector)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=effort, sel=selector)
    return faiss.SearchParameters(sel=selector)


def everywhere(index: Any, effort: int) -> Any:
    """Return what to ask: of a graph, with the effort of looking everywhere, the codes of its nodes."""
    is_graph = isinstance(index, faiss.IndexHNSW)
    return faiss.downcast_index(index.storage) if is_graph and effort >= max_effort(index) else index


def _inner(index: Any) -> Any:
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return _inner(index.index)
    return _inner(index.base_index) if isinstance(index, faiss.IndexRefine) else index
