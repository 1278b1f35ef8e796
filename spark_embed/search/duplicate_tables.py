"""The rows that have near ones, read from the data set; pairs.parquet and clusters.parquet of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spark_embed.schema import IMAGE_ID, SHARD, SHARD_ROW
from spark_embed.search.clusters import Clusters
from spark_embed.search.near import Pairs
from spark_embed.search.ranked import places_of, worth_of
from spark_embed.search.same_bytes import Contents, same_bytes
from spark_embed.search.vectors import DataSet, Rows, take_rows
from spark_embed.storage import replaced_file

PAIRS_NAME = "pairs.parquet"
CLUSTERS_NAME = "clusters.parquet"

_KEY = (SHARD, SHARD_ROW, IMAGE_ID)
_WRITTEN_ROWS = 500_000


@dataclass(frozen=True)
class Counts:
    """What is in the tables.

    Attributes:
        n_pairs, n_clusters: rows of pairs.parquet; clusters of two rows or more.
        n_removable: rows of clusters but those that are kept.
        n_exact: of them those that have the same bytes as another row of their cluster, which stays or is
            counted as near; n_near: others; n_unknown: of which nobody knows.
    """

    n_pairs: int
    n_clusters: int
    n_removable: int
    n_exact: int
    n_near: int
    n_unknown: int


def read_rows(data: DataSet, numbers: Rows, columns: Sequence[str]) -> pa.Table:
    """Return some columns of rows of the data set, by their numbers, which are sorted, in their order.

    Raises:
        StorageError: a file cannot be read.
    """
    found: list[pa.Table] = []
    first = 0
    for file in data.files:
        start, end = np.searchsorted(numbers, [first, first + file.n_rows])
        if start < end or not found:
            rows = (numbers[start:end] - first).tolist()
            found.append(take_rows(data.path(file.name), rows, list(dict.fromkeys([*_KEY, *columns]))))
        first += file.n_rows
    return pa.concat_tables(found)


def ranks_of(rows: pa.Table, keep: str | None, shards: Sequence[str]) -> Rows:
    """Return the rank of each row: the smaller is rather kept."""
    places = places_of(rows[SHARD].combine_chunks(), rows[SHARD_ROW].combine_chunks(), shards)
    worth = worth_of(rows[keep].combine_chunks(), keep) if keep else np.zeros(len(rows))
    ranks = np.empty(len(rows), dtype=np.int64)
    ranks[np.lexsort((places, worth))] = np.arange(len(rows))
    return ranks


def write_pairs(to: str, rows: pa.Table, pairs: Pairs, contents: Contents) -> None:
    """Write pairs.parquet.

    Args:
        to: the file.
        rows: that the pairs are of, by place.
        pairs: of them.
        contents: what is known of their bytes.

    Raises:
        StorageError: it cannot be written.
    """
    with replaced_file(to) as path:
        writer: pq.ParquetWriter | None = None
        for start in range(0, max(1, len(pairs.first)), _WRITTEN_ROWS):
            end = start + _WRITTEN_ROWS
            first, second, scores = pairs.first[start:end], pairs.second[start:end], pairs.scores[start:end]
            columns: dict[str, pa.Array | pa.ChunkedArray] = {}
            for side, places in (("a", first), ("b", second)):
                columns |= {f"{name}_{side}": rows[name].take(pa.array(places)) for name in _KEY}
            columns |= {"score": pa.array(scores, pa.float32())}
            columns |= {"same_bytes": same_bytes(contents, first, second, scores)}
            table = pa.table(columns)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()


def write_clusters(
    to: str, rows: pa.Table, clusters: Clusters, ranks: Rows, contents: Contents, n_pairs: int
) -> Counts:
    """Write clusters.parquet, those of two rows or more, in the rank of the rows that are kept.

    Raises:
        StorageError: it cannot be written.
    """
    sizes = np.bincount(clusters.kept, minlength=len(rows))
    members = np.flatnonzero(sizes[clusters.kept] > 1)
    kept, scores = clusters.kept[members], clusters.scores[members]
    order = np.lexsort((ranks[members], -scores, kept != members, ranks[kept]))
    members, kept, scores = members[order], kept[order], scores[order]
    is_kept = kept == members
    is_same = pc.if_else(pa.array(is_kept), True, same_bytes(contents, members, kept, scores))
    table = pa.table(
        {
            "cluster": pa.array(np.cumsum(is_kept) - 1, pa.int64()),
            "kept": pa.array(is_kept),
            "score": pa.array(scores, pa.float32()),
            "same_bytes": is_same,
            **{name: rows[name].take(pa.array(members)) for name in (IMAGE_ID, SHARD, SHARD_ROW)},
        }
    )
    with replaced_file(to) as path:
        pq.write_table(table, path)
    n_clusters, n_removable = int(is_kept.sum()), int((~is_kept).sum())
    known = contents.codes[members] >= 0
    different = np.unique(np.stack([kept[known], contents.codes[members][known]]), axis=1).shape[1]
    is_unknown = is_same.is_null().to_numpy(zero_copy_only=False) & ~known
    n_exact, n_unknown = int(known.sum()) - different, int(is_unknown.sum())
    return Counts(n_pairs, n_clusters, n_removable, n_exact, n_removable - n_exact - n_unknown, n_unknown)


def places_in(numbers: Rows, wanted: NDArray[np.int64]) -> Rows:
    """Return the places of numbers among those that are sorted."""
    return np.searchsorted(numbers, wanted).astype(np.int64)
