"""Which rows of errors.parquet are embedded once more, and in which waves (--retry_errors)."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.datasets.units import units_of
from spark_embed.errors import StorageError
from spark_embed.output.folder import ERRORS_NAME, Output
from spark_embed.output.records import Ledger, PublishedFile
from spark_embed.run.binding import Plan
from spark_embed.run.waves import Wave
from spark_embed.schema import SHARD
from spark_embed.storage import parquet_input


def find_retries(output: Output, ledger: Ledger | None, plan: Plan) -> list[Wave]:
    """Return waves over the published errors, each of as many rows as a wave has or a whole file more.

    Rows of shards that are gone, or hold something else now, stay as they are.

    Raises:
        StorageError: errors.parquet cannot be read.
    """
    if ledger is None:
        return []
    source = plan.source
    shards = {
        shard.name: shard
        for shard in source.shards
        if (state := ledger.shards.get(shard.name)) and state.version == shard.version
    }
    waves = []
    for files in _grouped(ledger.errors, plan.wave_rows):
        names = [file.name for file in files]
        # The images of a folder are shards of their own: any index file may name them.
        wanted = shards if source.is_folder else _shards_in(output, names) & shards.keys()
        units = units_of(shard for name, shard in shards.items() if name in wanted)
        if units:
            waves.append(Wave(tuple(units), tuple(names), sum(file.n_rows for file in files)))
    return waves


def _grouped(files: Sequence[PublishedFile], n_rows: int) -> list[list[PublishedFile]]:
    groups: list[list[PublishedFile]] = []
    for file in files:
        if not file.n_rows:
            continue
        if not groups or sum(one.n_rows for one in groups[-1]) >= n_rows:
            groups.append([])
        groups[-1].append(file)
    return groups


def _shards_in(output: Output, names: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for name in names:
        path = output.data_path(ERRORS_NAME, name)
        try:
            found.update(
                pq.read_table(parquet_input(path), columns=[SHARD], partitioning=None)[SHARD]
                .unique()
                .to_pylist()
            )
        except (OSError, pa.ArrowException) as exc:
            raise StorageError(f"{path}: cannot be read: {exc}") from exc
    return found
