"""The rows of one file: has each a good vector, or an error that there is?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spark_embed.output.records import PublishedFile
from spark_embed.output.verify.report import Finding, Kind
from spark_embed.output.verify.vectors import Positions, find_bad_vectors
from spark_embed.schema import (
    EMBEDDING,
    ERROR,
    ERRORS_NAME,
    SHARD,
    SHARD_ROW,
    Result,
    Results,
    error_column,
    error_columns,
)


@dataclass(frozen=True)
class DataFile:
    """A file to check: what files.json says of it, and of which kind it is (`Output.data_path`)."""

    path: str
    listed: PublishedFile
    kind: str

    @property
    def has_results(self) -> bool:
        """Whether it holds results, and not errors."""
        return self.kind != ERRORS_NAME

    @property
    def name(self) -> str:
        """Its name for people, with its folder's."""
        return self.kind if self.listed.name == self.kind else f"{self.kind}/{self.listed.name}"


@dataclass(frozen=True)
class Wanted:
    """What the rows of a data set should hold.

    Attributes:
        results: what the model gives.
        codes: that errors may have.
        embedding_dim: length of an embedding; None: as long as the first.
    """

    results: Results
    codes: frozenset[str]
    embedding_dim: int | None


class Contents:
    """What is wrong with the rows of a file, counted while they are read.

    Args:
        file: the file.
        wanted: what its rows should hold.
    """

    def __init__(self, file: DataFile, wanted: Wanted) -> None:
        self._file = file
        self._wanted = wanted
        self._dims = {EMBEDDING: wanted.embedding_dim}
        self._known = pa.array(sorted(wanted.codes))
        self._counts = Counter[str]()
        self._first: dict[str, str] = {}
        self._codes = {column: Counter[str]() for column in self._error_columns}

    @property
    def _error_columns(self) -> list[str]:
        return [*([] if self._file.has_results else [ERROR]), *error_columns(self._wanted.results)]

    def odd_column(self, schema: pa.Schema) -> str | None:
        """Say which column is not there, or of another type than it should be."""
        wanted: dict[str, Callable[[pa.DataType], bool]] = {SHARD: _is_text, SHARD_ROW: pa.types.is_int64}
        wanted |= dict.fromkeys(self._error_columns, _is_text)
        if self._file.has_results:
            for result in self._wanted.results:
                wanted |= {name: _is_vector if kind == "vector" else _is_any for name, kind in result.fields}
        for name, is_right in wanted.items():
            if schema.names.count(name) != 1:
                return f"has no column {name}"
            if not is_right(schema.field(name).type):
                return f"its column {name} is of type {schema.field(name).type}"
        return None

    def find_strangers(self, schema: pa.Schema) -> Iterator[Finding]:
        """Say which columns of results a file of errors has."""
        given = [field.name for result in self._wanted.results for field in result.fields]
        for name in [] if self._file.has_results else given:
            if name in schema.names:
                yield Finding("errors", f"{self._file.name}: has a column {name}")

    def keyed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the keys of the rows, those left out that have none, which are counted."""
        keys = batch.select([SHARD, SHARD_ROW])
        if batch.column(SHARD).null_count or batch.column(SHARD_ROW).null_count:
            has_key = pc.and_(pc.is_valid(batch.column(SHARD)), pc.is_valid(batch.column(SHARD_ROW)))
            self._count(batch, f"without {SHARD} or {SHARD_ROW}", _positions(pc.invert(has_key)))
            keys = keys.filter(has_key)
        return keys

    def add(self, batch: pa.RecordBatch) -> None:
        """Look at the results, or the errors, of some rows."""
        for name in self._error_columns:
            self._add_codes(batch, name)
        if self._file.has_results:
            for result in self._wanted.results:
                self._add_result(batch, result)

    def _add_result(self, batch: pa.RecordBatch, result: Result) -> None:
        """Look for rows with neither a result nor its error, with both, or with a bad vector."""
        is_there = pc.is_valid(batch.column(result.fields[0].name))
        if len(self._wanted.results) > 1:
            has_error = pc.is_valid(batch.column(error_column(result.name)))
            odd = _positions(pc.equal(is_there, has_error))
            self._count(batch, f"with neither {result.name} nor its error, or with both", odd)
            batch = batch.filter(is_there)
        for name, kind in result.fields:
            column = batch.column(name)
            if kind == "vector":
                if self._dims.get(name) is None:
                    self._dims[name] = next((len(one) for one in column.drop_null()[:1]), None)
                for what, positions in find_bad_vectors(column, self._dims.get(name) or 0).items():
                    self._count(batch, f"with a vector that is {what}", positions)
            elif len(self._wanted.results) == 1 and name == result.fields[0].name:
                self._count(batch, f"without {name}", _positions(pc.invert(is_there)))

    def _add_codes(self, batch: pa.RecordBatch, name: str) -> None:
        column = batch.column(name)
        is_known = pc.is_in(column, self._known)  # false for null
        known = pc.value_counts(column.filter(is_known)).to_pylist()
        self._codes[name].update({one["values"]: one["counts"] for one in known})
        is_odd = pc.invert(is_known)
        if name != ERROR:  # of a result that is there, null
            is_odd = pc.and_(is_odd, pc.is_valid(column))
        self._count(batch, f"with an {name} that is no known code", _positions(is_odd))

    def findings(self) -> Iterator[Finding]:
        """Return what is wrong with the rows so far, a line for each way."""
        for name, number in self._counts.items():
            rows = f"1 row {name}:" if number == 1 else f"{number:,} rows {name}, the first is"
            kind: Kind = "vectors" if self._file.has_results else "errors"
            yield Finding(kind, f"{self._file.name}: {rows} {self._first[name]}")

    def compare_codes(self) -> Iterator[Finding]:
        """Say whether the errors, all of them read, are those of files.json."""
        listed = self._file.listed
        of_results = {error_column(name): by_code for name, by_code in listed.n_errors_by_result.items()}
        for column, codes in self._codes.items():
            by_code = listed.n_errors_by_code if column == ERROR else of_results.get(column, {})
            wanted = {code: number for code, number in by_code.items() if number}
            if dict(codes) != wanted:
                what = "errors" if column == ERROR else column
                text = f"has {what} {_by_code(codes)}, in files.json {_by_code(wanted)}"
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


def _is_any(type_: pa.DataType) -> bool:
    return True


def _is_vector(type_: pa.DataType) -> bool:
    is_list = pa.types.is_list(type_) or pa.types.is_large_list(type_)
    return bool(is_list and pa.types.is_floating(type_.value_type))


def _by_code(codes: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {code}" for code, number in sorted(codes.items())) or "none"
