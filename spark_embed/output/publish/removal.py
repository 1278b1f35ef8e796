"""Rows that must not be in the output any more, and files without them.

Runs on executors, with pyarrow. Rows are known by (shard, shard_row); knows no reason why one must go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spark_embed.output.publish.output_files import OutputFiles, Target
from spark_embed.schema import SHARD, SHARD_ROW
from spark_embed.storage import parquet_input, rows_per_batch

BATCH_BYTES = 16 << 20
"""Of a file of a wave or of the output, read at once."""

_NUMBER = "__number__"


@dataclass(frozen=True)
class Removal:
    """What must go.

    Attributes:
        shards: all rows of shards of these names.
        waves: the rows that are in these files of waves, row by row.
    """

    shards: tuple[str, ...] = ()
    waves: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.shards or self.waves)


NOTHING = Removal()


class KeptRows:
    """The rows of a file that a removal leaves, batch after batch.

    Attributes:
        n_removed: rows of the file that must go.
    """

    def __init__(self, path: str, removal: Removal) -> None:
        self._kept = _kept(path, removal) if removal else None
        self._start = 0
        self.n_removed = 0 if self._kept is None else int(np.count_nonzero(~self._kept))

    def of_next(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return what is left of the file's next batch."""
        start, self._start = self._start, self._start + batch.num_rows
        if not self.n_removed or self._kept is None:
            return batch
        return batch.filter(pa.array(self._kept[start : self._start]))


def _kept(path: str, removal: Removal) -> npt.NDArray[np.bool_]:
    """Return for each row of a file whether it stays."""
    keys = pq.read_table(parquet_input(path), columns=[SHARD, SHARD_ROW], partitioning=None)
    kept = np.ones(len(keys), dtype=np.bool_)
    if removal.shards:
        gone = pa.array(removal.shards, pa.string())
        kept &= ~pc.is_in(keys[SHARD], value_set=gone).to_numpy()
    if removal.waves:
        numbered = keys.append_column(_NUMBER, pa.array(range(len(keys)), pa.int64()))
        for wave in removal.waves:
            rows = pq.read_table(parquet_input(wave), columns=[SHARD, SHARD_ROW], partitioning=None)
            hit = numbered.join(rows, [SHARD, SHARD_ROW], join_type="left semi")[_NUMBER]
            kept[hit.to_numpy()] = False
    return kept


@dataclass(frozen=True)
class Rewrite:
    """A published file, what must go from it, and where what is left goes."""

    path: str
    target: Target
    removal: Removal


def rewrite_file(rewrite: Rewrite) -> dict[str, Any] | None:
    """Write a file anew without some rows; returns what was written and `n_removed`, None if no row goes.

    Raises:
        StorageError: the disk is full.
        OSError, pa.ArrowException: a file cannot be read or written.
    """
    kept = KeptRows(rewrite.path, rewrite.removal)
    if not kept.n_removed:
        return None
    with pq.ParquetFile(parquet_input(rewrite.path)) as file, OutputFiles(rewrite.target) as files:
        files.write(pa.RecordBatch.from_pylist([], schema=file.schema_arrow.remove_metadata()))
        for batch in file.iter_batches(rows_per_batch(file, BATCH_BYTES)):
            files.write(kept.of_next(batch).replace_schema_metadata(None))
    return {"written": files.written, "n_removed": kept.n_removed}
