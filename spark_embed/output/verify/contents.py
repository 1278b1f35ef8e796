"""The rows of one file: has each a good vector, or an error that there is?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spark_embed.errors import ERROR_CODES
from spark_embed.output.folder import EMBEDDINGS_NAME
from spark_embed.output.records import PublishedFile
from spark_embed.output.verify.report import Finding, Kind
from spark_embed.output.verify.vectors import Positions, find_bad_vectors
from spark_embed.schema import EMBEDDING, ERROR, SHARD, SHARD_ROW


@dataclass(frozen=True)
class DataFile:
    """A file to check: what files.json says of it, and of which kind it is (`Output.data_path`)."""

    path: str
    listed: PublishedFile
    kind: str

    @property
    def has_vectors(self) -> bool:
        """Whether it holds vectors, and not errors."""
        return self.kind == EMBEDDINGS_NAME

    @property
    def name(self) -> str:
        """Its name for people, with its folder's."""
        return self.kind if self.listed.name == self.kind else f"{self.kind}/{self.listed.name}"


class Contents:
    """What is wrong with the rows of a file, counted while they are read.

    Args:
        file: the file.
        embedding_dim: length of its vectors; None: as long as the first.
    """

    def __init__(self, file: DataFile, embedding_dim: int | None) -> None:
        self._file = file
        self._dim = embedding_dim
        self._counts = Counter[str]()
        self._first: dict[str, str] = {}
        self._codes = Counter[str]()

    def odd_column(self, schema: pa.Schema) -> str | None:
        """Say which column is not there, or of another type than it should be."""
        wanted: dict[str, Callable[[pa.DataType], bool]] = {SHARD: _is_text, SHARD_ROW: pa.types.is_int64}
        wanted |= {EMBEDDING: _is_vector} if self._file.has_vectors else {ERROR: _is_text}
        for name, is_right in wanted.items():
            if schema.names.count(name) != 1:
                return f"has no column {name}"
            if not is_right(schema.field(name).type):
                return f"its column {name} is of type {schema.field(name).type}"
        return None

    def keyed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the keys of the rows, those left out that have none, which are counted."""
        keys = batch.select([SHARD, SHARD_ROW])
        if batch.column(SHARD).null_count or batch.column(SHARD_ROW).null_count:
            has_key = pc.and_(pc.is_valid(batch.column(SHARD)), pc.is_valid(batch.column(SHARD_ROW)))
            self._count(batch, f"without {SHARD} or {SHARD_ROW}", _positions(pc.invert(has_key)))
            keys = keys.filter(has_key)
        return keys

    def add(self, batch: pa.RecordBatch) -> None:
        """Look at the vectors, or the errors, of some rows."""
        if self._file.has_vectors:
            column = batch.column(EMBEDDING)
            if self._dim is None:
                self._dim = next((len(one) for one in column.drop_null()[:1]), None)
            for name, positions in find_bad_vectors(column, self._dim or 0).items():
                self._count(batch, f"with a vector that is {name}", positions)
            return
        column = batch.column(ERROR)
        is_known = pc.is_in(column, pa.array(sorted(ERROR_CODES)))  # false for null
        self._codes.update(
            {one["values"]: one["counts"] for one in pc.value_counts(column.filter(is_known)).to_pylist()}
        )
        self._count(batch, "with an error that is no known code", _positions(pc.invert(is_known)))

    def findings(self) -> Iterator[Finding]:
        """Return what is wrong with the rows so far, a line for each way."""
        for name, number in self._counts.items():
            rows = f"1 row {name}:" if number == 1 else f"{number:,} rows {name}, the first is"
            kind: Kind = "vectors" if self._file.has_vectors else "errors"
            yield Finding(kind, f"{self._file.name}: {rows} {self._first[name]}")

    def compare_codes(self) -> Iterator[Finding]:
        """Say whether the errors, all of them read, are those of files.json."""
        listed = {code: number for code, number in self._file.listed.n_errors_by_code.items() if number}
        if not self._file.has_vectors and dict(self._codes) != listed:
            text = f"has errors {_by_code(self._codes)}, in files.json {_by_code(listed)}"
            yield Finding("errors", f"{self._file.name}: {text}")

    def _count(self, batch: pa.RecordBatch, name: str, positions: Positions) -> None:
        if len(positions):
            self._counts[name] += len(positions)
            first = batch.slice(int(positions[0]), 1)
            shard, row = (first.column(key)[0].as_py() for key in (SHARD, SHARD_ROW))
            self._first.setdefault(name, f"shard {shard}, row {row}")


def _positions(mask: pa.Array) -> Positions:
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False))


def _is_text(type_: pa.DataType) -> bool:
    value = type_.value_type if pa.types.is_dictionary(type_) else type_
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def _is_vector(type_: pa.DataType) -> bool:
    is_list = pa.types.is_list(type_) or pa.types.is_large_list(type_)
    return bool(is_list and pa.types.is_floating(type_.value_type))


def _by_code(codes: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {code}" for code, number in sorted(codes.items())) or "none"
