"""How many rows of a parquet file to read at once, so that they fit a budget; reads nothing itself."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow.parquet as pq


def rows_per_batch(
    file: pq.ParquetFile,
    n_bytes: int,
    max_rows: int | None = None,
    *,
    group: int | None = None,
    columns: Collection[str] | None = None,
) -> int:
    """Return how many rows take about `n_bytes`, by the sizes in the file's footer; one at least.

    Args:
        file: an open one.
        n_bytes: the budget.
        max_rows: no more than that: a column of few values takes hardly a byte a row until it is read.
        group: the row group that will be read; all of them without.
        columns: the paths, as in the footer, of what will be read; all of them without.
    """
    footer = file.metadata
    indices = range(footer.num_row_groups) if group is None else [group]
    groups = [footer.row_group(index) for index in indices]
    n_rows = sum(one.num_rows for one in groups)
    row_bytes: int = max(1, sum(_n_bytes(one, columns) for one in groups) // max(n_rows, 1))
    fitting = max(1, n_bytes // row_bytes)
    return fitting if max_rows is None else min(fitting, max_rows)


def _n_bytes(group: pq.RowGroupMetaData, columns: Collection[str] | None) -> int:
    """Return how large a row group, or some columns of it, are before they are compressed."""
    if columns is None:
        return int(group.total_byte_size)
    chunks = (group.column(index) for index in range(group.num_columns))
    return sum(int(chunk.total_uncompressed_size) for chunk in chunks if chunk.path_in_schema in columns)
