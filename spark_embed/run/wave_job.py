"""One wave: its units as one Spark job into a folder of its own, counted, checked, and marked last.

Knows nothing of the waves beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_embed.datasets import BadShard
from spark_embed.datasets.units import Unit
from spark_embed.errors import StorageError
from spark_embed.output.records import Marker, Part, now
from spark_embed.output.state import write_marker
from spark_embed.run.binding import Binding
from spark_embed.run.context import RunContext
from spark_embed.run.error_budget import ErrorBudget
from spark_embed.run.limit import Limit
from spark_embed.run.table_wave import run_table_wave
from spark_embed.run.wave import WaveData, check_commit, check_devices, count_wave, run_wave
from spark_embed.run.wave_failure import UnreadableShardsError, explain_failure
from spark_embed.schema import ERRORS_NAME, SHARD, SHARD_ROW, error_columns
from spark_embed.spark.jobs import JobGroups
from spark_embed.spark.settings import read_parquet
from spark_embed.spark.types import quoted


@dataclass(frozen=True)
class WaveContext:
    """What the waves of a run share.

    Attributes:
        done: called on the driver's main thread with each marker that has been written.
    """

    run: RunContext
    binding: Binding
    run_id: str
    jobs: JobGroups
    budget: ErrorBudget
    limit: Limit
    done: Callable[[Marker], None]


@dataclass(frozen=True)
class Wave:
    """What one job embeds: the units, or of them only the `n_retried` rows of files that lack a result."""

    units: tuple[Unit, ...]
    retried: tuple[str, ...] = ()
    n_retried: int = 0

    @property
    def n_rows(self) -> int:
        """Rows that it embeds; of retried ones, at most."""
        return self.n_retried if self.retried else sum(unit.n_rows for unit in self.units)


def run_one(context: WaveContext, name: str, wave: Wave) -> Marker:
    """Run one wave and mark it; on a thread of its own."""
    started = time.monotonic()
    folder = context.run.output.wave(name)
    try:
        names = None
        with context.jobs.group(f"wave {name}", wave.n_rows):
            if context.binding.source.is_table:
                spark, tally = context.run.spark, context.budget.tally
                names = run_table_wave(spark, context.binding, wave.units, folder, tally)
            else:
                table = _table(context, wave)
                run_wave(context.binding.embedded(table, context.budget.tally), folder)
    except (PySparkException, Py4JError) as exc:
        binding, root = context.binding, context.run.output.root
        raise explain_failure(exc, binding, root, wave.units, wave.n_rows) from exc
    if names is None:
        check_commit(folder)
    data = count_wave(folder, context.binding.preflight.recipe.gives, names)
    if not wave.retried:  # the rows of those are checked when they leave their table
        _check_rows(name, data, wave)
    context.budget.add(data.counted)
    check_devices(data.counted, context.binding.preflight.model["device"])
    context.run.check()
    marker = Marker(
        run_id=context.run_id,
        wave=name,
        kind="retry" if wave.retried else "embed",
        units=() if wave.retried else tuple(map(_part, wave.units)),
        files=data.files,
        counted=data.counted,
        embed_s=round(time.monotonic() - started, 3),
        finished_at=now(),
    )
    write_marker(context.run.output, marker)
    return marker


def _part(unit: Unit) -> Part:
    return Part(unit.shard.name, unit.shard.version, unit.first, unit.n_rows)


def _table(context: WaveContext, wave: Wave) -> DataFrame:
    """Return the table of references of a wave."""
    spark, source = context.run.spark, context.binding.source
    if not wave.retried:
        return source.table(spark, wave.units, context.binding.task_size)
    table = source.table(spark, wave.units)
    keys = _failed_keys(context, wave.retried)
    return table.join(keys, [SHARD, SHARD_ROW], "left_semi").select(*map(quoted, table.columns))


def _failed_keys(context: WaveContext, paths: Sequence[str]) -> DataFrame:
    """Return `shard` and `shard_row` of the rows in published files that lack a result."""
    read = partial(read_parquet, context.run.spark)
    folder = context.run.output.table(ERRORS_NAME)
    errors = [path for path in paths if path.startswith(folder)]
    tables = [read(errors)] if errors else []
    if others := [path for path in paths if path not in errors]:
        columns = error_columns(context.binding.preflight.recipe.gives)
        is_missing = reduce(or_, (F.col(quoted(name)).isNotNull() for name in columns))
        tables.append(read(others).where(is_missing))
    keys = (table.select(SHARD, SHARD_ROW) for table in tables)
    return reduce(lambda some, more: some.union(more), keys)


def _check_rows(name: str, data: WaveData, wave: Wave) -> None:
    _check_shards(data, wave.units)
    if data.counted.n_rows != wave.n_rows:
        raise StorageError(
            f"wave {name}: {wave.n_rows} rows in, {data.counted.n_rows} out: the input changed in the run, "
            "or this is a bug; nothing of it counts; run again"
        )


def _check_shards(data: WaveData, units: Sequence[Unit]) -> None:
    """Compare the rows of each shard with those that were planned."""
    planned: dict[str, int] = {}
    for unit in units:
        planned[unit.shard.name] = planned.get(unit.shard.name, 0) + unit.n_rows
    bad = [
        BadShard(name, f"{n_rows} rows planned, {found} found: it changed during the run")
        for name, n_rows in planned.items()
        if (found := data.n_rows_by_shard.get(name, 0)) != n_rows
    ]
    if bad:
        raise UnreadableShardsError(bad, is_certain=True)
