"""Sums that tell one multiset of rows from another: of 64-bit mixes, modulo 2^64.

Two multisets that differ in one row have different sums for certain, any others but for one chance in 2^64;
nobody is expected to look for that chance.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

MODULUS = 1 << 64

_CHUNK_ROWS = 1 << 20


def mix(rows: npt.NDArray[np.int64]) -> Hashes:
    """Return a number of 64 bits for each row number, for no two the same.

    It is the last step of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014).
    """
    z = rows.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def sum_of_range(first: int, number: int) -> int:
    """Return the sum of the mixes of `number` rows from `first` on."""
    total = 0
    for start in range(first, first + number, _CHUNK_ROWS):
        rows = np.arange(start, min(start + _CHUNK_ROWS, first + number), dtype=np.int64)
        total += int(mix(rows).sum(dtype=np.uint64))
    return total % MODULUS
