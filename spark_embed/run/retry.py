"""Which rows lack a result and are embedded once more, and in which waves (--retry_errors)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.datasets.units import units_of
from spark_embed.errors import StorageError
from spark_embed.output.folder import Output
from spark_embed.output.records import Ledger
from spark_embed.run.binding import Binding
from spark_embed.run.wave_job import Wave
from spark_embed.schema import ERRORS_NAME, SHARD
from spark_embed.storage import parquet_input


def find_retries(output: Output, ledger: Ledger | None, binding: Binding) -> list[Wave]:
    """Return waves over the published rows that lack a result.

    Each is of as many as a wave has, or a whole file more.

    Rows of shards that are gone, or hold something else now, stay as they are.

    Raises:
        StorageError: a file of them cannot be read.
    """
    if ledger is None:
        return []
    source = binding.source
    shards = {
        shard.name: shard
        for shard in source.shards
        if (state := ledger.shards.get(shard.name)) and state.version == shard.version
    }
    waves = []
    for files in _grouped(files_with_errors(ledger), binding.wave_rows):
        paths = [output.data_path(file.table, file.name) for file in files]
        wanted = _shards_in(paths)
        units = units_of(shard for name, shard in shards.items() if name in wanted)
        if units:
            waves.append(Wave(tuple(units), tuple(paths), sum(file.n_errors for file in files)))
    return waves


class FailedRows(NamedTuple):
    """A published file, and how many of its rows lack a result; at most, where there are several."""

    table: str
    name: str
    n_errors: int


def files_with_errors(ledger: Ledger) -> list[FailedRows]:
    """Return the published files that hold rows without a result, or without one of several."""
    found = [FailedRows(ERRORS_NAME, file.name, file.n_rows) for file in ledger.errors if file.n_rows]
    for file in ledger.results:
        n_errors = sum(sum(by_code.values()) for by_code in file.n_errors_by_result.values())
        if n_errors:
            found.append(FailedRows(ledger.table, file.name, min(n_errors, file.n_rows)))
    return found


def _grouped(files: Sequence[FailedRows], n_rows: int) -> list[list[FailedRows]]:
    groups: list[list[FailedRows]] = []
    for file in files:
        if not groups or sum(one.n_errors for one in groups[-1]) >= n_rows:
            groups.append([])
        groups[-1].append(file)
    return groups


def _shards_in(paths: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        try:
            column = pq.read_table(parquet_input(path), columns=[SHARD], partitioning=None)[SHARD]
            found.update(column.unique().to_pylist())
        except (OSError, pa.ArrowException) as exc:
            raise StorageError(f"{path}: cannot be read: {exc}") from exc
    return found
