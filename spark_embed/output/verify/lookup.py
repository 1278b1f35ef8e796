"""Which rows of some shards are missing, there twice, or strangers: a search for a few examples.

Only where counts or sums have shown that something is wrong. The files are read again, their keys only, and
a bit is kept for each row that there should be: for so many rows at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from spark_embed.output.verify.reading import read_columns
from spark_embed.schema import SHARD, SHARD_ROW

_WINDOW_ROWS = 1 << 25
_CHUNK_ROWS = 1 << 20
_MAX_EXAMPLES = 5

Ranges = Sequence[tuple[int, int]]
Mask = npt.NDArray[np.bool_]


@dataclass
class Difference:
    """Examples of what is wrong with a shard's rows: numbers, or (first, last) of neighbours."""

    missing: list[tuple[int, int]] = field(default_factory=list)
    twice: list[tuple[int, int]] = field(default_factory=list)
    strangers: set[int] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.missing or self.twice or self.strangers)

    def __str__(self) -> str:
        strangers = [(number, number) for number in sorted(self.strangers)]
        kinds = {"missing": self.missing, "there more than once": self.twice, "not in files.json": strangers}
        return "; ".join(f"{name} {_numbers(found)}" for name, found in kinds.items() if found)


class _Rows:
    """The rows that a shard should have, at positions from `start` on in a line of all shards' rows."""

    def __init__(self, ranges: Ranges, start: int) -> None:
        self.start = start
        self._first = np.array([first for first, _ in ranges], np.int64)
        self._number = np.array([number for _, number in ranges], np.int64)
        self._start = start + np.cumsum(self._number) - self._number
        self.end = start + int(self._number.sum())

    def positions(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the rows' positions; -1 for a row that the shard should not have."""
        if not len(self._first):
            return np.full(len(rows), -1)
        at = np.searchsorted(self._first, rows, side="right") - 1
        offset = rows - self._first[at]
        return np.where((at >= 0) & (offset < self._number[at]), self._start[at] + offset, -1)

    def marked(self, mask: Mask, window: range) -> Iterator[tuple[int, int]]:
        """Yield the runs of the shard's rows that are marked, of those in the window."""
        for first, number, start in zip(self._first, self._number, self._start, strict=True):
            low, high = max(start, window.start), min(start + number, window.stop)
            for a, b in _runs(mask[low - window.start : max(low, high) - window.start]):
                yield int(first + low - start) + a, int(first + low - start) + b


def look_up(paths: Sequence[str], shards: Mapping[str, Ranges]) -> dict[str, Difference]:
    """Return examples of what is wrong with the rows of some shards.

    Args:
        paths: the files to look into, as far as they can be read.
        shards: the rows that each should have, as (first, number).
    """
    expected: dict[str, _Rows] = {}
    end = 0
    for name, ranges in shards.items():
        expected[name] = _Rows(ranges, end)
        end = expected[name].end
    for start in range(0, max(end, 1), _WINDOW_ROWS):
        found = _look_up_window(paths, expected, range(start, min(start + _WINDOW_ROWS, end)))
        if any(found.values()):
            break
    return found


def _look_up_window(
    paths: Sequence[str], expected: Mapping[str, _Rows], window: range
) -> dict[str, Difference]:
    seen, twice = np.zeros(len(window), np.bool_), np.zeros(len(window), np.bool_)
    found = {name: Difference() for name in expected}
    for name, rows in _read_rows(paths, expected.keys()):
        positions = expected[name].positions(rows)
        strangers = found[name].strangers
        strangers.update(rows[positions < 0][: _MAX_EXAMPLES + 1 - len(strangers)].tolist())
        inside = positions[(positions >= window.start) & (positions < window.stop)] - window.start
        inside, counts = np.unique(inside, return_counts=True)
        twice[inside[(counts > 1) | seen[inside]]] = True
        seen[inside] = True
    for name, should in expected.items():
        found[name].missing += _first_few(should.marked(~seen, window))
        found[name].twice += _first_few(should.marked(twice, window))
    return found


def _read_rows(paths: Sequence[str], shards: Collection[str]) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Yield a shard's name and some of its rows, for the shards among `shards`."""
    for batch in read_columns(paths, [SHARD, SHARD_ROW]):
        column, rows = batch.column(SHARD).dictionary_encode(), batch.column(SHARD_ROW)
        for number, name in enumerate(column.dictionary.to_pylist()):
            if name in shards:
                is_its = pc.and_(pc.equal(column.indices, number), pc.is_valid(rows))
                yield name, rows.filter(is_its).to_numpy()


def _runs(mask: Mask) -> Iterator[tuple[int, int]]:
    """Yield the first and last positions of neighbours that are marked."""
    first, before = 0, False
    for start in range(0, len(mask), _CHUNK_ROWS):
        part = mask[start : start + _CHUNK_ROWS]
        for change in np.flatnonzero(part != np.concatenate([[before], part[:-1]])) + start:
            if before:
                yield first, int(change) - 1
            first, before = int(change), not before
    if before:
        yield first, len(mask) - 1


def _first_few(found: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    return list(islice(found, _MAX_EXAMPLES + 1))


def _numbers(found: Sequence[tuple[int, int]]) -> str:
    parts = [str(first) if first == last else f"{first}-{last}" for first, last in found[:_MAX_EXAMPLES]]
    return ", ".join([*parts, "..."] if len(found) > _MAX_EXAMPLES else parts)
