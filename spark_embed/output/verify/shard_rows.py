"""Whether the rows of every shard are there, once: counted and summed by shard, for any number of rows."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from spark_embed.output.records import ShardState
from spark_embed.output.verify.lookup import look_up
from spark_embed.output.verify.report import MAX_LINES, Finding
from spark_embed.output.verify.sums import MODULUS, mix, sum_of_range
from spark_embed.schema import SHARD, SHARD_ROW


class ShardRows:
    """The rows that there are, by shard, and those that there should be."""

    def __init__(self, shards: Mapping[str, ShardState]) -> None:
        self._shards = shards
        self._lock = threading.Lock()
        self._counts = Counter[str]()
        self._sums = Counter[str]()

    def add(self, keys: pa.RecordBatch) -> None:
        """Count rows, given as `shard` and `shard_row`, without nulls."""
        shards, rows = keys.column(SHARD).dictionary_encode(), keys.column(SHARD_ROW).to_numpy()
        numbers = shards.indices.to_numpy()
        counts = np.bincount(numbers, minlength=len(shards.dictionary))
        sums = np.zeros(len(counts), np.uint64)
        np.add.at(sums, numbers, mix(rows))
        there = np.flatnonzero(counts)
        names = shards.dictionary.take(pa.array(there)).to_pylist()
        with self._lock:
            for name, count, total in zip(names, counts[there], sums[there], strict=True):
                self._counts[name] += int(count)
                self._sums[name] = (self._sums[name] + int(total)) % MODULUS

    def compare(self, paths: Sequence[str]) -> Iterator[Finding]:
        """Say for each shard what is missing, there twice, or should not be there; `paths`: where to look."""
        wrong = {name: state for name, state in self._shards.items() if not self._is_right(name, state)}
        told = dict(sorted(wrong.items(), key=lambda item: _n_rows(item[1]))[:MAX_LINES])
        differences = look_up(paths, {name: state.ranges for name, state in told.items()}) if told else {}
        for name, state in {**told, **wrong}.items():
            text = f"shard {name}: {self._counts[name]:,} of {_n_rows(state):,} rows are there"
            found = differences.get(name)
            yield Finding("rows", f"{text}: {found}" if found else text)
        for name in self._counts.keys() - self._shards.keys():
            text = f"shard {name}: {self._counts[name]:,} rows are there, and files.json has no such shard"
            yield Finding("rows", text)

    def _is_right(self, name: str, state: ShardState) -> bool:
        if self._counts[name] != _n_rows(state):
            return False  # and nothing is added up, however many rows a damaged list may have
        return self._sums[name] == sum(sum_of_range(*one) for one in state.ranges) % MODULUS


def _n_rows(state: ShardState) -> int:
    return sum(number for _, number in state.ranges)
