"""One wave over rows of tables: its tasks read, predict and write by themselves; Spark places them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import types as T

from spark_embed.datasets import BadShard, ParquetSource
from spark_embed.datasets.units import Unit
from spark_embed.inference.table import TablePart, predict_part
from spark_embed.inference.tally import Tally
from spark_embed.models import Recipe
from spark_embed.run.binding import Binding
from spark_embed.run.wave_failure import UnreadableShardsError
from spark_embed.schema import RESULT, SHARD, SHARD_ROW
from spark_embed.spark.tasks import run_tasks
from spark_embed.spark.types import result_type

_TASKS_PER_SLOT = 3
_MIN_TASK_ROWS, _MAX_TASK_ROWS = 100_000, 4_000_000


def run_table_wave(
    spark: SparkSession, binding: Binding, units: Iterable[Unit], folder: str, tally: Tally | None
) -> list[str]:
    """Run the wave; returns the names of the files in `folder` that hold it.

    Raises:
        UnreadableShardsError: rows of these cannot be read.
        SparkEmbedError: as `run_tasks`.
    """
    parts = cut(binding, list(units), folder)
    recipe, batch_size = binding.preflight.recipe, binding.options.batch_size
    answers = run_tasks(spark, partial(_predict, recipe, batch_size, tally), parts)
    bad = {
        part.shard: BadShard(part.shard, answer["unreadable"])
        for part, answer in zip(parts, answers, strict=True)
        if "unreadable" in answer
    }
    if bad:
        raise UnreadableShardsError(list(bad.values()), is_certain=False)
    return [answer["name"] for answer in answers]


def _predict(recipe: Recipe, batch_size: int, tally: Tally | None, part: TablePart) -> dict[str, Any]:
    return predict_part(part, recipe, batch_size, tally)


def cut(binding: Binding, units: list[Unit], folder: str) -> list[TablePart]:
    """Cut units into what tasks do: some for each slot, between row groups where these are small enough."""
    source, n_rows = binding.source, sum(unit.n_rows for unit in units)
    wanted = n_rows // (_TASKS_PER_SLOT * binding.n_slots)
    wanted = min(max(wanted, _MIN_TASK_ROWS), _MAX_TASK_ROWS)
    pieces = [piece for unit in units for piece in _pieces(unit, wanted)]
    id_column = source.id.name if source.id else None
    own = tuple((field.name, field.dataType) for field in source.own_columns)
    return [
        TablePart(
            path=os.path.join(source.folder, piece.shard.path),
            shard=piece.shard.name,
            first=piece.first,
            n_rows=piece.n_rows,
            folder=folder,
            name=f"part-{number:05d}",
            id_column=id_column,
            own=own,
        )
        for number, piece in enumerate(pieces)
    ]


def _pieces(unit: Unit, wanted: int) -> Iterator[Unit]:
    group = unit.shard.group_rows or wanted
    step = max(wanted // group, 1) * group if group <= _MAX_TASK_ROWS else wanted
    first, end = unit.first, unit.first + unit.n_rows
    while first < end:
        until = min(end, first - first % step + step)
        yield Unit(unit.shard, first, until - first)
        first = until
    if unit.n_rows == 0:  # for its columns
        yield unit


def table_schema(source: ParquetSource, recipe: Recipe) -> T.StructType:
    """Return the schema of a wave over a table, which is that of run.json."""
    first, *others = source.own_columns
    result = T.StructField(RESULT, result_type(recipe.gives, packed=True))
    place = [T.StructField(SHARD, T.StringType()), T.StructField(SHARD_ROW, T.LongType())]
    return T.StructType([first, result, *others, *place])
