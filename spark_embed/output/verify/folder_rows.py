"""Whether every image of an image folder is there, once: names counted and summed in buckets, in any number.

Each image is a shard of one row there, so files.json names the index files that list the images instead.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from spark_embed.errors import StorageError
from spark_embed.output.records import Ledger
from spark_embed.output.verify.reading import UNREADABLE, first_line, iter_batches, open_parquet, read_columns
from spark_embed.output.verify.report import Finding
from spark_embed.output.verify.sums import Hashes
from spark_embed.schema import INDEX_SHARD, SHARD, SHARD_ROW

_N_BUCKETS = 1 << 12
_HASH_KEY = "spark_embed.name"
_MAX_NAMES = 200_000
"""Names looked at one by one, where something is wrong; one bucket at least, however many it holds."""


class _Buckets:
    """Names, counted and summed by the bucket that their hash falls into."""

    def __init__(self) -> None:
        self.counts = np.zeros(_N_BUCKETS, np.int64)
        self.sums = np.zeros(_N_BUCKETS, np.uint64)
        self._lock = threading.Lock()

    def add(self, names: pa.Array, sign: int = 1) -> None:
        """Count names; with the sign -1 count them back."""
        hashes = _hash(names)
        buckets = _bucket(hashes)
        counts = np.bincount(buckets, minlength=_N_BUCKETS)
        sums = np.zeros(_N_BUCKETS, np.uint64)
        np.add.at(sums, buckets, hashes)
        with self._lock:
            self.counts += sign * counts
            self.sums += sums if sign > 0 else -sums


class FolderRows:
    """The images that there are, and those that the index lists and that are not void."""

    def __init__(self, ledger: Ledger, index: str) -> None:
        self._ledger = ledger
        self._index = index
        self._there = _Buckets()
        self._lock = threading.Lock()
        self._n_numbered = 0

    def add(self, keys: pa.RecordBatch) -> None:
        """Count rows, given as `shard` and `shard_row`, without nulls."""
        self._there.add(keys.column(SHARD))
        n_numbered = pc.sum(pc.not_equal(keys.column(SHARD_ROW), 0)).as_py() or 0
        with self._lock:
            self._n_numbered += n_numbered

    def compare(self, paths: Sequence[str]) -> Iterator[Finding]:
        """Say which images are missing, there twice, or should not be there; `paths`: where to look."""
        if self._n_numbered:
            yield Finding(
                "rows", f"{self._n_numbered:,} rows have a {SHARD_ROW} other than 0, that of an image"
            )
        listed = _Buckets()
        try:
            for names, sign in self._listed():
                listed.add(names, sign)
            differing = np.flatnonzero(
                (listed.counts != self._there.counts) | (listed.sums != self._there.sums)
            )
            if len(differing):
                n_there, n_listed = int(self._there.counts.sum()), int(listed.counts.sum())
                yield Finding("rows", f"{n_there:,} images are there, {n_listed:,} are in the index")
                n_names = np.cumsum(np.maximum(listed.counts, self._there.counts)[differing])
                chosen = differing[: max(1, int(np.searchsorted(n_names, _MAX_NAMES)))]
                yield from self._name_some(paths, chosen)
        except StorageError as exc:
            yield Finding("rows", f"which images there should be cannot be said: {exc}")

    def _name_some(self, paths: Sequence[str], buckets: npt.NDArray[np.int64]) -> Iterator[Finding]:
        listed, there = Counter[str](), Counter[str]()
        for names, sign in self._listed():
            for name in _those_in(names, buckets):
                listed[name] += sign
        for batch in read_columns(paths, [SHARD]):
            there.update(_those_in(batch.column(SHARD), buckets))
        for name in sorted(listed.keys() | there.keys()):
            if listed[name] > there[name]:
                yield Finding("rows", f"image {name}: is missing")
            elif there[name] > max(listed[name], 1):
                yield Finding("rows", f"image {name}: is there {there[name]:,} times")
            elif there[name] > listed[name]:
                yield Finding("rows", f"image {name}: is there, and should not be")

    def _listed(self) -> Iterator[tuple[pa.Array, int]]:
        """Yield the names that the index lists, with 1, and those that are void, with -1.

        Raises:
            StorageError: a file of the index cannot be read, or is shorter than it was.
        """
        for name, state in self._ledger.shards.items():
            first = 0
            for names in self._read_index(name):
                yield from ((part, 1) for part in _in_ranges(names, first, state.ranges))
                first += len(names)
            if state.ranges and first < sum(state.ranges[-1]):
                raise StorageError(
                    f"{name} of the index has {first:,} rows, in files.json {sum(state.ranges[-1]):,}"
                )
        for name in self._ledger.voided:
            yield from ((names, -1) for names in self._read_index(name))

    def _read_index(self, name: str) -> Iterator[pa.Array]:
        try:
            with open_parquet(os.path.join(self._index, name)) as file:
                yield from (batch.column(INDEX_SHARD) for batch in iter_batches(file, [INDEX_SHARD]))
        except (*UNREADABLE, KeyError) as exc:
            raise StorageError(f"{name} of the index cannot be read: {first_line(exc)}") from exc


def _in_ranges(names: pa.Array, first: int, ranges: Sequence[tuple[int, int]]) -> Iterator[pa.Array]:
    """Yield the names at rows in the ranges; `names` are those from row `first` on."""
    for start, number in ranges:
        low, high = max(start - first, 0), min(start + number - first, len(names))
        if low < high:
            yield names.slice(low, high - low)


def _those_in(names: pa.Array, buckets: npt.NDArray[np.int64]) -> list[str]:
    names = names.drop_null()
    chosen: list[str] = names.filter(pa.array(np.isin(_bucket(_hash(names)), buckets))).to_pylist()
    return chosen


def _hash(names: pa.Array) -> Hashes:
    """Return a hash of 64 bits (SipHash) for each name, the same in every process."""
    values = names.cast(pa.string()).to_numpy(zero_copy_only=False)
    return pd.util.hash_array(values, hash_key=_HASH_KEY, categorize=False)


def _bucket(hashes: Hashes) -> npt.NDArray[np.int64]:
    return (hashes % np.uint64(_N_BUCKETS)).astype(np.int64)
