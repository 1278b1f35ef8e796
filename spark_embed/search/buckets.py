"""Near pairs of more vectors than one machine holds: spread into buckets of near ones, a task each, by Spark.

A task reads published files and writes their vectors into a file, bucket after bucket; another reads one
bucket of all those files, and writes its pairs. A file that is there is not made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import faiss
import numpy as np
from pyspark.sql import SparkSession

from spark_embed.search.files import load, save
from spark_embed.search.near import NO_PAIRS, Cells, Pairs, join_pairs, near_cells
from spark_embed.search.ranked import Ranked, Source, collapsed, different_pairs, in_order, read_ranked
from spark_embed.search.vectors import Rows, Vectors
from spark_embed.spark.tasks import run_tasks
from spark_embed.storage import exists, open_binary, replaced_file

CELLS_NAME = "cells.npz"

_CHUNK_BYTES = 128 << 20
_MAX_BUCKETS_OF_ONE = 3
"""Buckets that a vector is in, at most; docs/search.md has what part of true pairs meets in them."""


class Truth(NamedTuple):
    """What comparing some vectors with all says: near pairs of them.

    Attributes:
        queries, others: int64 (n,), numbers.
    """

    queries: Rows
    others: Rows


@dataclass(frozen=True)
class Spread:
    """What writes the vectors of some files into buckets; plain values."""

    folder: str
    name: str
    source: Source
    threshold: float


@dataclass(frozen=True)
class Bucket:
    """What compares the vectors of a bucket; plain values.

    Attributes:
        number: of the bucket.
        spreads: names of the files that it is in.
    """

    folder: str
    number: int
    spreads: tuple[str, ...]
    dim: int
    threshold: float


class Found(NamedTuple):
    """Near pairs, same vectors, and what some true pairs are."""

    pairs: Pairs
    same: Pairs
    truth: Truth


def find_in_buckets(
    spark: SparkSession,
    folder: str,
    spreads: Sequence[Spread],
    centres: Vectors,
    queries: tuple[Vectors, Rows],
    check: Any,
) -> Found:
    """Find the pairs of all vectors; what an interrupted call has made in the folder is not made again.

    Args:
        spark: runs the tasks.
        folder: of this very question: these files, centres and threshold.
        spreads: which files, a task each.
        centres: of the buckets.
        queries: vectors and their numbers, to be compared with all.
        check: is given the number of pairs before they are read, to refuse too many.
    """
    if not exists(f"{folder}/{CELLS_NAME}"):
        save(f"{folder}/{CELLS_NAME}", centres=centres, queries=queries[0], numbers=queries[1])
    missing = [one for one in spreads if not exists(f"{folder}/{one.name}.npz")]
    if missing:
        run_tasks(spark, spread, missing)
    names, dim = tuple(one.name for one in spreads), centres.shape[1]
    buckets = [Bucket(folder, n, names, dim, spreads[0].threshold) for n in range(len(centres))]
    unmade = [one for one in buckets if not exists(_pairs_path(one))]
    if unmade:
        run_tasks(spark, compare, unmade)
    pairs, same, truth = [], [], []
    n_pairs = 0
    for bucket in buckets:
        found = load(_pairs_path(bucket))
        n_pairs += len(found["first"])
        check(n_pairs)
        pairs.append(Pairs(found["first"], found["second"], found["scores"]))
        same.append(Pairs(found["same"], found["others"], np.ones(len(found["same"]), np.float32)))
    for name in names:
        found = load(f"{folder}/{name}.npz")
        truth.append(Truth(found["truth_queries"], found["truth_others"]))
        same.append(Pairs(found["same"], found["others"], np.ones(len(found["same"]), np.float32)))
    return Found(join_pairs(pairs), concatenated(same), Truth(*map(np.concatenate, zip(*truth, strict=True))))


def spread(task: Spread) -> None:
    """Write the vectors of some files, by buckets; the list of what is where is the proof that all is.

    Raises:
        StorageError: a file cannot be read or written.
    """
    faiss.omp_set_num_threads(1)
    cells = load(f"{task.folder}/{CELLS_NAME}")
    centres = cells["centres"]
    segments, same, truth = [], [], []
    offset = 0
    with replaced_file(f"{task.folder}/{task.name}.bin") as path, open(path, "wb") as file:
        for chunk in read_ranked(task.source, max(1, _CHUNK_BYTES // (4 * task.source.dim))):
            different, of_chunk = collapsed(chunk)
            same.append(of_chunk)
            truth.append(true_pairs(cells["queries"], cells["numbers"], different, task.threshold))
            found = near_cells(different.vectors, centres, task.threshold, _MAX_BUCKETS_OF_ONE)
            for number, rows in _by_cell(found):
                for array in different:
                    file.write(np.ascontiguousarray(array[rows]).data)
                segments.append((number, offset, len(rows)))
                offset = file.tell()
    queries, others = map(np.concatenate, zip(*truth, strict=True)) if truth else _NONE
    joined = concatenated(same)
    save(
        f"{task.folder}/{task.name}.npz",
        segments=np.array(segments, np.int64).reshape(-1, 3),
        same=joined.first,
        others=joined.second,
        truth_queries=queries,
        truth_others=others,
    )


def compare(task: Bucket) -> None:
    """Write the pairs of a bucket.

    Raises:
        StorageError: a file cannot be read or written.
    """
    faiss.omp_set_num_threads(1)
    parts = [part for name in task.spreads for part in _segments(task, name)]
    pairs = same = NO_PAIRS
    if parts:
        different, same = collapsed(in_order(parts))
        pairs = different_pairs(different, task.threshold)
    save(
        _pairs_path(task),
        first=pairs.first,
        second=pairs.second,
        scores=pairs.scores,
        same=same.first,
        others=same.second,
    )


def true_pairs(vectors: Vectors, numbers: Rows, ranked: Ranked, threshold: float) -> Truth:
    """Compare some vectors, of these numbers, with others."""
    queries, others = np.nonzero(vectors @ ranked.vectors.T >= threshold)
    found = Truth(numbers[queries], ranked.numbers[others])
    is_other = found.queries != found.others
    return Truth(found.queries[is_other], found.others[is_other])


def concatenated(pairs: Sequence[Pairs]) -> Pairs:
    """Return all pairs as they are: the one that is kept first."""
    return Pairs(*map(np.concatenate, zip(NO_PAIRS, *pairs, strict=True)))


_NONE = (np.empty(0, np.int64), np.empty(0, np.int64))


def _by_cell(found: Cells) -> Iterator[tuple[int, Rows]]:
    order = np.argsort(found.cells, kind="stable")
    numbers, starts = np.unique(found.cells[order], return_index=True)
    yield from zip(numbers.tolist(), np.split(found.rows[order], starts[1:]), strict=True)


def _segments(task: Bucket, name: str) -> Iterator[Ranked]:
    segments = load(f"{task.folder}/{name}.npz")["segments"]
    with open_binary(f"{task.folder}/{name}.bin") as file:
        for _, offset, n in segments[segments[:, 0] == task.number]:
            file.seek(int(offset))
            data = file.read(int(n) * (24 + 4 * task.dim))
            yield Ranked(
                np.frombuffer(data, np.int64, n),
                np.frombuffer(data, np.float64, n, offset=8 * int(n)),
                np.frombuffer(data, np.int64, n, offset=16 * int(n)),
                np.frombuffer(data, np.float32, offset=24 * int(n)).reshape(int(n), task.dim),
            )


def _pairs_path(task: Bucket) -> str:
    return f"{task.folder}/pairs-{task.number:06d}.npz"


def spreads_of(
    folder: str, source: Source, sizes: Sequence[int], n_rows: int, threshold: float
) -> list[Spread]:
    """Cut published files, of these numbers of rows, into tasks of about so many rows."""
    groups: list[list[int]] = []
    n_left = 0
    for file, size in enumerate(sizes):
        if not groups or n_left < size:
            groups.append([])
            n_left = max(n_rows, size)
        groups[-1].append(file)
        n_left -= size
    found = []
    for number, group in enumerate(groups):
        paths = tuple(source.paths[file] for file in group)
        firsts = tuple(source.firsts[file] for file in group)
        part = replace(source, paths=paths, firsts=firsts)
        found.append(Spread(folder, f"spread-{number:06d}", part, threshold))
    return found
