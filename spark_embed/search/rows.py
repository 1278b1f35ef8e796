"""The rows that an index numbers: which file's each is, whether it is still published, and its columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spark_embed.errors import ConfigError, StorageError
from spark_embed.output.fingerprint import results_of
from spark_embed.schema import IMAGE_ID, SHARD, SHARD_ROW, result_columns
from spark_embed.search.vectors import DataFile, DataSet, Rows, read_column, read_schema, take_rows
from spark_embed.search.where import Where

Mask = NDArray[np.bool_]

KEYS = (IMAGE_ID, SHARD, SHARD_ROW)
"""The columns that say which row it is."""


class IndexedRows:
    """The rows of the files that are in an index, numbered through.

    Attributes:
        data: the data set, as it is now.
        schema: of its own columns, and `KEYS`.
        n_gone, n_new: files of the data set that are not there any more, and that the index does not have.
    """

    def __init__(self, data: DataSet, files: Sequence[DataFile]) -> None:
        """Look what is there.

        Args:
            data: the data set, with at least one file.
            files: those that the index has, in its order.

        Raises:
            StorageError: a file cannot be read.
        """
        self.data = data
        self._files = files
        self._firsts = np.cumsum([0, *(file.n_rows for file in files)])
        there = set(data.files)
        self._is_gone = [file not in there for file in files]
        self.n_gone, self.n_new = sum(self._is_gone), len(there.difference(files))
        whole = read_schema(data.path(data.files[0].name))
        given = set(result_columns(results_of(data.fingerprint)))
        self.schema = pa.schema([one for one in whole if one.name not in given])

    def locate(self, number: int) -> tuple[str, int]:
        """Return the file and the row in it of a row by its number."""
        place = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return self._files[place].name, int(number - self._firsts[place])

    def number_of(self, image_id: str) -> int:
        """Return the number of a row by its image_id, or as shard#row; the first of several.

        Raises:
            ConfigError: there is none such.
            StorageError: a file cannot be read.
        """
        shard, _, row = image_id.rpartition("#")
        is_place = shard and row.isdecimal() and int(row[:19]) == int(row) < 2**63
        for place, file in enumerate(self._files):
            first = 0
            names = [IMAGE_ID, *([SHARD, SHARD_ROW] if is_place else [])]
            for batch in () if self._is_gone[place] else read_column(self.data.path(file.name), names):
                is_it = pc.equal(batch.column(0), image_id)
                if len(names) > 1:
                    of_shard = pc.equal(batch.column(1), shard)
                    is_it = pc.or_kleene(is_it, pc.and_(of_shard, pc.equal(batch.column(2), int(row))))
                at: int = pc.index(is_it, True).as_py()
                if at >= 0:
                    return int(self._firsts[place]) + first + at
                first += batch.num_rows
        raise ConfigError(f"--id {image_id}: no row has this image_id (or shard#row)")

    def there(self) -> Mask:
        """Return of each row whether it is still published."""
        return np.repeat(~np.array(self._is_gone), [file.n_rows for file in self._files])

    def holds(self, condition: Where) -> Mask:
        """Return of each row whether a condition holds; for one that is gone it does not.

        Raises:
            ConfigError: it cannot be asked of these values, or takes too long.
            StorageError: a file cannot be read.
        """
        return np.concatenate([self._holds(condition, place) for place in range(len(self._files))])

    def read(self, numbers: Rows, columns: Sequence[str]) -> pa.Table:
        """Return the rows of these numbers, in their order.

        Raises:
            StorageError: a file cannot be read.
        """
        schema = pa.schema([self.schema.field(name) for name in columns])
        places = np.searchsorted(self._firsts, numbers, side="right") - 1
        found, order = [schema.empty_table()], []
        for place in np.unique(places):
            here = np.flatnonzero(places == place)
            rows = numbers[here] - self._firsts[place]
            table = take_rows(self.data.path(self._files[place].name), rows.tolist(), list(columns))
            if table.schema.names != schema.names:
                raise StorageError(f"{self._files[place].name}: its columns are not those of the data set")
            found.append(table.cast(schema))
            order.append(here)
        whole = pa.concat_tables(found)
        return whole.take(np.argsort(np.concatenate(order))) if order else whole

    def _holds(self, condition: Where, place: int) -> Mask:
        file = self._files[place]
        if self._is_gone[place]:
            return np.zeros(file.n_rows, dtype=np.bool_)
        batches = list(read_column(self.data.path(file.name), condition.columns))
        if not condition.columns:  # `true`
            return condition.keep(pa.table({IMAGE_ID: pa.nulls(file.n_rows)}))
        return np.concatenate([condition.keep(pa.Table.from_batches([batch])) for batch in batches])
