"""Are ids unique, and those of two tables the same set: 16 bytes a row in memory, whatever the ids are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from spark_embed.tables.reading import as_text

Hashes = npt.NDArray[np.uint64]

_SHOWN = 5
_LOOKED_UP = 1000


class Ids:
    """The ids of a table, as hashes of their text: 7 and "7" are the same id, 7 and "07" are not.

    Equal ids have equal hashes. That two unequal ones among 10 million have, too, has a chance of 3e-6;
    `repeated` looks at the ids themselves.

    Args:
        read: gives the ids, batch by batch, each time anew.
    """

    def __init__(self, read: Callable[[], Iterable[pa.Array]]) -> None:
        self._read = read
        self._chunks: list[Hashes] = []

    def add(self, column: pa.Array) -> None:
        """Take in the ids of a batch."""
        self._chunks.append(_hashed(column)[1])

    def hashes(self) -> Hashes:
        """Return the hashes of all, sorted."""
        joined = np.concatenate(self._chunks) if self._chunks else np.empty(0, np.uint64)
        joined.sort()
        self._chunks = [joined]
        return joined

    def repeated(self) -> tuple[int, list[str]]:
        """Return how many rows have the id of an earlier one, and some of those."""
        hashes = self.hashes()
        repeated = hashes[1:][hashes[1:] == hashes[:-1]]
        if not repeated.size:
            return 0, []
        looked_up = np.unique(repeated)[:_LOOKED_UP]
        twice = {text: n for text, n in Counter(self._those(looked_up)).items() if n > 1}
        n_others = int((repeated > looked_up[-1]).sum())
        return sum(twice.values()) - len(twice) + n_others, list(twice)[:_SHOWN]

    def not_in(self, others: Ids) -> tuple[int, list[str]]:
        """Return how many of the ids are not among others, and some of those."""
        absent = np.setdiff1d(self.hashes(), others.hashes())
        return len(absent), list(dict.fromkeys(self._those(absent[:_SHOWN]))) if absent.size else []

    def _those(self, wanted: Hashes) -> Iterator[str]:
        for column in self._read():
            texts, hashes = _hashed(column)
            yield from texts.filter(pa.array(np.isin(hashes, wanted))).to_pylist()


def _hashed(column: pa.Array) -> tuple[pa.Array, Hashes]:
    """Return the ids that are there, as text, and their hashes."""
    texts = as_text(column).drop_null()
    texts = texts.filter(pc.not_equal(texts, ""))
    return texts, pd.util.hash_array(texts.to_numpy(zero_copy_only=False), categorize=False)
