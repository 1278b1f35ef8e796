"""What tasks Spark makes of parquet files (its `FilePartition.getFilePartitions`), as plain arithmetic."""

from typing import NamedTuple


class File(NamedTuple):
    """A parquet file of equal rows in equal row groups."""

    n_rows: int
    n_bytes: int
    group_rows: int


def rows_by_task(files, max_bytes: int, open_bytes: int) -> list[int]:
    """Return the rows of each task over the files, in the order in which they start, empty ones too.

    Spark cuts files into pieces, sorts these by size, and fills one task after the other. A row group belongs
    to the piece that its middle is in.
    """
    pieces = []
    for file in files:
        groups = [
            min(file.group_rows, file.n_rows - first) for first in range(0, file.n_rows, file.group_rows)
        ]
        row_bytes = file.n_bytes / file.n_rows
        rows = [0] * -(-file.n_bytes // max_bytes)
        first = 0
        for group in groups:
            rows[min(int((first + group / 2) * row_bytes // max_bytes), len(rows) - 1)] += group
            first += group
        sizes = [min(max_bytes, file.n_bytes - start) for start in range(0, file.n_bytes, max_bytes)]
        pieces += zip(sizes, rows, strict=True)
    tasks, filled = [], max_bytes + 1
    for n_bytes, n_rows in sorted(pieces, key=lambda piece: -piece[0]):
        if filled + n_bytes > max_bytes:
            tasks.append(0)
            filled = 0
        tasks[-1] += n_rows
        filled += n_bytes + open_bytes
    return tasks
