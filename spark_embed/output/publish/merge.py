"""Files of a wave -> files of the output: good rows with their results, bad ones with their errors.

Runs on executors, with pyarrow: Spark would take every vector apart and put it together again. Knows no
session and no folder's meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spark_embed.inference.arrow import unpack_vectors
from spark_embed.output.publish.output_files import OutputFiles, Target
from spark_embed.output.publish.removal import BATCH_BYTES, NOTHING, KeptRows, Removal
from spark_embed.schema import (
    ERROR,
    ERROR_DETAIL,
    RESULT,
    Results,
    error_columns,
    result_columns,
    vector_columns,
)
from spark_embed.spark.types import STATS
from spark_embed.storage import parquet_input, rows_per_batch


@dataclass(frozen=True)
class Merge:
    """What one task makes of some files of waves.

    Attributes:
        sources: the files, in order.
        results: for the files with rows that have a result.
        errors: for the files with rows that have none.
        removals: rows that are left out of some of the files.
    """

    sources: tuple[str, ...]
    results: Target
    errors: Target
    removals: Mapping[str, Removal] = field(default_factory=dict)


def merge_files(merge: Merge) -> dict[str, Any]:
    """Write the rows of `merge.sources` to files of the two kinds, at least one of each.

    A file appears under its name when it is whole; a second attempt writes the same files again.

    Returns:
        `results` and `errors`: the files as `OutputFiles.written` has them; `n_removed`: rows left out.

    Raises:
        StorageError: the disk is full.
        OSError, pa.ArrowException: a file cannot be read or written.
    """
    n_removed, given = 0, merge.results.given
    with OutputFiles(merge.results) as good, OutputFiles(merge.errors) as bad:
        for path in merge.sources:
            kept = KeptRows(path, merge.removals.get(path, NOTHING))
            n_removed += kept.n_removed
            for batch in map(kept.of_next, _read(path)):
                result = batch.column(RESULT)
                is_bad = pc.is_valid(result.field(ERROR))
                is_any_bad = pc.any(is_bad).as_py()
                good.write(_with_results(batch.filter(pc.invert(is_bad)) if is_any_bad else batch, given))
                bad.write(_with_errors(batch.filter(is_bad), given))
    return {"results": good.written, "errors": bad.written, "n_removed": n_removed}


def _read(path: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file in batches, without what they cost; an empty one at least, for its columns."""
    with pq.ParquetFile(parquet_input(path)) as file:
        schema = file.schema_arrow
        yield pa.RecordBatch.from_pylist([], schema=schema)
        given = [f"{RESULT}.{field.name}" for field in schema.field(RESULT).type if field.name != STATS]
        columns = [one for name in schema.names for one in (given if name == RESULT else [name])]
        for batch in file.iter_batches(rows_per_batch(file, BATCH_BYTES), columns=columns):
            yield batch.select(schema.names)  # whatever order they come in


def _with_results(batch: pa.RecordBatch, given: Results) -> pa.RecordBatch:
    result, vectors = batch.column(RESULT), vector_columns(given)
    columns = {name: result.field(name) for name in result_columns(given)}
    return _replaced(batch, columns | {name: unpack_vectors(columns[name]) for name in vectors})


def _with_errors(batch: pa.RecordBatch, given: Results) -> pa.RecordBatch:
    result = batch.column(RESULT)
    names = (ERROR, ERROR_DETAIL, *error_columns(given))
    return _replaced(batch, {name: result.field(name) for name in names})


def _replaced(batch: pa.RecordBatch, columns: dict[str, pa.Array]) -> pa.RecordBatch:
    """Return rows with these columns where their result stood."""
    arrays: list[pa.Array] = []
    fields: list[pa.Field] = []
    for field_, array in zip(batch.schema, batch.columns, strict=True):
        if field_.name == RESULT:
            arrays += columns.values()
            fields += [pa.field(name, column.type) for name, column in columns.items()]
        else:  # whether a column can be null is not the same in every wave
            arrays.append(array)
            fields.append(field_.with_nullable(True))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
