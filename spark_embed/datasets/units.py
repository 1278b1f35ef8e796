"""Units: the rows that are resumed together, and how they are cut into waves; plain arithmetic."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from spark_embed.datasets.shards import Shard

_ALIGNED_ROWS = 1000
"""Big shards are cut at multiples of this: the index has row groups of as many rows."""

_SMALL_REST = 0.2
"""A rest of a shard below this part of a wave goes with the rest, instead of making a tiny wave."""


_MAX_UNITS = 20_000
"""In a wave: Spark looks at each file before the first task, some 0.25 ms each on a disk and more in S3."""


class Unit(NamedTuple):
    """`n_rows` rows of a shard, from `first` on."""

    shard: Shard
    first: int
    n_rows: int

    @property
    def is_whole(self) -> bool:
        """Whether these are all rows of the shard."""
        return self.n_rows == self.shard.n_rows


def units_of(shards: Iterable[Shard], max_rows: int | None = None) -> list[Unit]:
    """Return all rows of the shards, or the first `max_rows`, as a unit each."""
    units = []
    left = max_rows
    for shard in shards:
        n_rows = shard.n_rows if left is None else min(shard.n_rows, left)
        if left is not None:
            left -= n_rows
        if n_rows:
            units.append(Unit(shard, 0, n_rows))
    return units


def subtract(units: Iterable[Unit], done: Mapping[str, Sequence[tuple[int, int]]]) -> list[Unit]:
    """Return what is left of `units` without the rows that are `done`: (first, number) in order, by shard."""
    left = []
    for unit in units:
        first, end = unit.first, unit.first + unit.n_rows
        for start, number in done.get(unit.shard.name, ()):
            if first < start:
                left.append(Unit(unit.shard, first, min(start, end) - first))
            first = max(first, start + number)
        if first < end:
            left.append(Unit(unit.shard, first, end - first))
    return [unit for unit in left if unit.n_rows > 0]


def take_wave(queue: deque[Unit], n_rows: int) -> list[Unit]:
    """Take the units of a wave of about `n_rows` rows from the queue; at least one row if there is one.

    A shard that is larger than what is left of the wave is cut. Of very small ones a wave has fewer rows.
    """
    taken: list[Unit] = []
    left = max(n_rows, 1)
    while queue and len(taken) < _MAX_UNITS and (left > 0 or not taken):
        unit = queue.popleft()
        n_taken = min(unit.n_rows, _aligned_end(unit, left) - unit.first)
        if unit.n_rows - n_taken <= _SMALL_REST * n_rows:
            n_taken = unit.n_rows
        taken.append(unit._replace(n_rows=n_taken))
        if n_taken < unit.n_rows:
            queue.appendleft(Unit(unit.shard, unit.first + n_taken, unit.n_rows - n_taken))
        left -= n_taken
    return taken


def _aligned_end(unit: Unit, n_rows: int) -> int:
    """Return the row at which to cut a unit after some `n_rows`."""
    end = unit.first + n_rows
    aligned = end - end % _ALIGNED_ROWS
    return aligned if aligned > unit.first else end
