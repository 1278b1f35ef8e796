"""The vectors of an output folder as an index reads them: published files, and no others; of length 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spark_embed.errors import ConfigError, StorageError
from spark_embed.output.fingerprint import results_of
from spark_embed.output.folder import Output
from spark_embed.output.state import read_ledger, read_run
from spark_embed.output.verify.reading import UNREADABLE, first_line, iter_batches, open_parquet
from spark_embed.schema import vector_columns
from spark_embed.storage import folder_path

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]


class DataFile(NamedTuple):
    """A published file, as files.json lists it. Within a run no other file ever has its name."""

    name: str
    n_rows: int
    n_bytes: int


class RowGroup(NamedTuple):
    """A row group of the `file`th file: its number there, its first row, and how many it has."""

    file: int
    number: int
    first: int
    n_rows: int


@dataclass(frozen=True)
class DataSet:
    """What is published in an output folder at one moment.

    Attributes:
        root: the output folder.
        table: the name of the table with the results.
        column: of the vectors.
        files: of the table, in their order.
        run_id, generation: of the state.
        fingerprint: what decides what a vector is.
    """

    root: str
    table: str
    column: str
    files: tuple[DataFile, ...]
    run_id: str
    generation: int
    fingerprint: dict[str, Any]

    @property
    def n_rows(self) -> int:
        """Rows of all files."""
        return sum(file.n_rows for file in self.files)

    def path(self, name: str) -> str:
        """Return where a file is."""
        return Output(self.root).data_path(self.table, name)


def read_data_set(uri: str, column: str | None = None) -> DataSet:
    """Read what is published in the output folder of a run.

    Args:
        uri: the folder.
        column: of the vectors; None for the only one, or the images'.

    Raises:
        ConfigError: there is no such folder, nothing is published in it, or it has no such vectors.
        ResumeError: a file of its state is broken.
        StorageError: one cannot be read.
    """
    root = folder_path(uri, "OUTPUT_DIR")
    output = Output(root)
    run, ledger = read_run(output), read_ledger(output)
    if run is None or ledger is None:
        raise ConfigError(f"{root}: no run of spark_embed has published anything there")
    if run.run_id != ledger.run_id:
        raise ConfigError(f"{root}: a run with --overwrite is not finished: start it again, then index")
    known = vector_columns(results_of(run.fingerprint))
    if not known:
        raise ConfigError(f"{root}: its model gives no vectors; a classifier does with --with_embedding")
    if column is not None and column not in known:
        raise ConfigError(f"--column {column}: the vectors of {root} are {', '.join(known)}")
    return DataSet(
        root,
        ledger.table,
        column or known[0],
        tuple(DataFile(file.name, file.n_rows, file.n_bytes) for file in ledger.results),
        run.run_id,
        ledger.generation,
        run.fingerprint,
    )


def read_vectors(path: str, column: str, dim: int | None = None) -> Iterator[tuple[Rows, Vectors]]:
    """Yield the vectors of a file in batches of bounded memory, as rows of the file and vectors of length 1.

    A row without one (of several results one may be missing) is left out.

    Args:
        path: of the file.
        column: of the vectors, array of float.
        dim: their length; None: as long as the first.

    Yields:
        int64 (n,) and float32 (n, dim).

    Raises:
        StorageError: the file cannot be read, or its vectors are not of one length.
    """
    first = 0
    with _opened(path) as file:
        for batch in iter_batches(file, [column]):
            rows, vectors = _as_matrix(batch.column(0), dim, path)
            yield rows + first, vectors
            dim = dim or (vectors.shape[1] if len(vectors) else None)
            first += batch.num_rows


def dim_of(data: DataSet) -> int:
    """Return the length of the vectors.

    Raises:
        ConfigError: there are none.
        StorageError: a file cannot be read.
    """
    for file in data.files:
        for _, vectors in read_vectors(data.path(file.name), data.column):
            if len(vectors):
                return int(vectors.shape[1])
    raise ConfigError(f"{data.root}: has no vectors in {data.column}: nothing can be searched")


def read_column(path: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a file in batches of bounded memory.

    Raises:
        StorageError: the file cannot be read.
    """
    with _opened(path) as file:
        for batch in iter_batches(file, list(columns)):
            yield batch.select(list(columns))


def read_schema(path: str) -> pa.Schema:
    """Return the columns of a file.

    Raises:
        StorageError: the file cannot be read.
    """
    with _opened(path) as file:
        return file.schema_arrow.remove_metadata()


def list_groups(data: DataSet, number: int) -> list[RowGroup]:
    """Return the row groups of the `number`th file of a data set.

    Raises:
        StorageError: the file cannot be read.
    """
    found, first = [], 0
    with _opened(data.path(data.files[number].name)) as file:
        for group in range(file.metadata.num_row_groups):
            n_rows = file.metadata.row_group(group).num_rows
            found.append(RowGroup(number, group, first, n_rows))
            first += n_rows
    return found


def read_group(data: DataSet, group: RowGroup, dim: int) -> tuple[Rows, Vectors]:
    """Return what `read_vectors` yields, of a row group.

    Raises:
        StorageError: the file cannot be read.
    """
    path = data.path(data.files[group.file].name)
    with _opened(path) as file:
        table = file.read_row_group(group.number, columns=[data.column], use_threads=False)
        rows, vectors = _as_matrix(table.column(0).combine_chunks(), dim, path)
    return rows + group.first, vectors


def take_vectors(path: str, column: str, wanted: Sequence[int], dim: int) -> Vectors:
    """Return the vectors of some rows of a file, in their order; each must have one.

    Raises:
        StorageError: the file cannot be read.
    """
    table = take_rows(path, wanted, [column])
    rows, vectors = _as_matrix(table.column(0).combine_chunks(), dim, path)
    if len(rows) != len(wanted):
        raise StorageError(f"{path}: has no vector in a row that is in the index; verify says what is wrong")
    return vectors


def take_rows(path: str, wanted: Sequence[int], columns: Sequence[str] | None) -> pa.Table:
    """Return some rows of a file, in the order asked for; only the row groups that they are in are read.

    Raises:
        StorageError: the file cannot be read.
    """
    places = np.asarray(wanted, dtype=np.int64)
    order = np.argsort(places, kind="stable")
    places = places[order]
    first = 0
    with _opened(path) as file:
        schema = file.schema_arrow if columns is None else pa.schema(map(file.schema_arrow.field, columns))
        found = [schema.empty_table()]
        for group in range(file.metadata.num_row_groups):
            n_rows = file.metadata.row_group(group).num_rows
            here = places[(places >= first) & (places < first + n_rows)] - first
            if len(here):
                found.append(file.read_row_group(group, columns=columns, use_threads=False).take(here))
            first += n_rows
    return pa.concat_tables(found).take(np.argsort(order, kind="stable"))


@contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    """Open a file for a `with` block.

    Raises:
        StorageError: it cannot be read, inside the block too.
    """
    try:
        with open_parquet(path) as file:
            yield file
    except UNREADABLE as exc:
        raise StorageError(f"{path}: cannot be read: {first_line(exc)}") from exc


def unit_vectors(vectors: Vectors) -> tuple[NDArray[np.bool_], Vectors]:
    """Return which vectors have a direction, and those, of length 1."""
    lengths = np.linalg.norm(vectors, axis=1)
    is_good = np.isfinite(lengths) & (lengths > 0)
    return is_good, np.ascontiguousarray(vectors[is_good] / lengths[is_good, None], dtype=np.float32)


def _as_matrix(column: pa.Array, dim: int | None, path: str) -> tuple[Rows, Vectors]:
    rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)).astype(np.int64)
    column = column.drop_null()
    if not len(column):
        return rows, np.empty((0, dim or 0), dtype=np.float32)
    dim = dim or len(column[0])
    lengths = pc.list_value_length(column)
    if dim == 0 or not pc.all(pc.equal(lengths, dim)).as_py():
        raise StorageError(f"{path}: its vectors are not all of length {dim}; 'spark-embed verify' says more")
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    is_good, vectors = unit_vectors(flat.reshape(-1, dim))
    return rows[is_good], vectors
