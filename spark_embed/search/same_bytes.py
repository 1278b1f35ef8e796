"""Whether rows have the same bytes: by a column with a hash of them, else by reading those in question."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from spark_embed.errors import ConfigError, ImageError, SparkEmbedError
from spark_embed.schema import SHARD, SHARD_ROW
from spark_embed.search.near import Pairs
from spark_embed.search.pictures import Pictures
from spark_embed.search.vectors import Rows
from spark_embed.spark.tasks import run_tasks

HASH_NAMES = ("sha256", "sha512", "sha1", "md5")
"""Columns that are taken for a hash of the image's bytes; img2dataset writes sha256."""

SAME_SCORE = 0.99
"""Images of the same bytes have vectors as near as that, in whatever precision."""

_PER_TASK = 2_000


class Contents(NamedTuple):
    """What is known of the rows' bytes.

    Attributes:
        codes: int64 (n,), equal for equal bytes; -1 where nothing is known.
        source: where that is from, for people.
        is_read: only of rows in question; others with a lower score are known to differ.
    """

    codes: Rows
    source: str
    is_read: bool


def find_hash_column(schema: pa.Schema, given: str | None) -> str | None:
    """Return the column with a hash of the images' bytes; None if there is none.

    Raises:
        ConfigError: the one that is given is not there.
    """
    if given is not None and given not in schema.names:
        raise ConfigError(f"--hash_column {given}: no such column; there are {', '.join(schema.names)}")
    return given or next((name for name in schema.names if name.lower() in HASH_NAMES), None)


def by_column(column: pa.ChunkedArray, name: str) -> Contents:
    """Return what a column of hashes says."""
    return Contents(_codes(column), f"the column {name}", is_read=False)


def by_reading(
    root: str, rows: pa.Table, pairs: Pairs, session: Callable[[], SparkSession] | None
) -> Contents:
    """Return what the pictures themselves say, of the rows of pairs that may have the same bytes.

    Args:
        root: the output folder.
        rows: with shard and shard_row.
        pairs: by places in `rows`.
        session: for many; None: they are read here.
    """
    is_near = pairs.scores >= SAME_SCORE
    wanted = np.unique(np.concatenate([pairs.first[is_near], pairs.second[is_near]]))
    names, numbers = rows[SHARD].to_pylist(), rows[SHARD_ROW].to_pylist()
    asked = sorted((names[place], numbers[place], int(place)) for place in wanted)
    work = [(root, asked[start : start + _PER_TASK]) for start in range(0, len(asked), _PER_TASK)]
    try:
        if session is None or len(work) < 2:
            answers = [hash_pictures(one) for one in work]
        else:
            answers = run_tasks(session(), hash_pictures, work)
    except SparkEmbedError as exc:
        return Contents(np.full(len(rows), -1), f"nothing: {exc}", is_read=True)
    found: list[str | None] = [None] * len(rows)
    for (_, places), hashes in zip(work, answers, strict=True):
        for (_, _, place), value in zip(places, hashes, strict=True):
            found[place] = value
    n_unread = sum(found[place] is None for place in wanted)
    source = f"{len(wanted):,} pictures" + (f", of which {n_unread:,} cannot be read" if n_unread else "")
    return Contents(_codes(pa.array(found, pa.string())), source, is_read=True)


def same_bytes(contents: Contents, first: Rows, second: Rows, scores: NDArray[np.float32]) -> pa.Array:
    """Return of pairs of rows whether their bytes are the same; null where that is not known."""
    one, other = contents.codes[first], contents.codes[second]
    is_known = (one >= 0) & (other >= 0)
    if contents.is_read:
        is_known |= scores < SAME_SCORE
    return pa.array((one == other) & (one >= 0), pa.bool_(), mask=~is_known)


def hash_pictures(work: tuple[str, Sequence[tuple[str, int, int]]]) -> list[str | None]:
    """Return hashes of the pictures of rows; None for one that cannot be had.

    Raises:
        SparkEmbedError: none can.
    """
    root, rows = work
    pictures = Pictures(root)
    found: list[str | None] = []
    for shard, row, _ in rows:
        try:
            found.append(hashlib.sha256(pictures.read(shard, row)).hexdigest())
        except ImageError:
            found.append(None)
    return found


def _codes(values: pa.Array | pa.ChunkedArray) -> Rows:
    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    indices = whole.dictionary_encode().indices
    codes: Rows = indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes
