"""What a task does with a part of a table: parquet rows -> a file of a wave, column by column.

Beside the feed, which is made for images: a row of numbers costs a thousandth of one, and a trip through the
JVM more than its prediction. Runs on executors, by `run_tasks`; no row of a table goes through Spark.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_type

from spark_embed.errors import one_line
from spark_embed.inference.arrow import Stats, make_table_results
from spark_embed.inference.tally import Tally, add_to_tally
from spark_embed.inference.task import (
    begin_task,
    end_task,
    executor_name,
    has_failed_before,
    load_worker_model,
    placed,
)
from spark_embed.models import Recipe
from spark_embed.models.tabular.signature import Signature
from spark_embed.models.tabular.tabular_model import Predicted, TabularModel
from spark_embed.schema import (
    ERROR,
    ERROR_DETAIL,
    FAULT,
    PREDICTION_CLASS,
    RESULT,
    SHARD,
    SHARD_ROW,
    TIMESTAMP,
)
from spark_embed.storage import is_store_failure, parquet_input, replaced_file, traffic

CHUNK_ROWS = 65_536
"""Rows that are read, predicted and written together; more where a forward pass is larger."""


@dataclass(frozen=True)
class TablePart:
    """Some rows of a parquet file, and where their results go.

    Attributes:
        path: of the file.
        shard: what the rows call it.
        first, n_rows: which rows.
        folder: of the wave.
        name: what the file of the results begins with; the task adds what no other attempt has.
        id_column: in the file; None: the id is shard#row.
        own: the output's own columns, Arrow types by name, the id first; the others are features.
    """

    path: str
    shard: str
    first: int
    n_rows: int
    folder: str
    name: str
    id_column: str | None
    own: tuple[tuple[str, T.DataType], ...]


def predict_part(
    part: TablePart, recipe: Recipe, batch_size: int, tally: Tally | None = None
) -> dict[str, Any]:
    """Write the results of a part to a file of its wave.

    Returns:
        `name` of the file; or `unreadable`, why the rows cannot be read.

    Raises:
        ModelError: the model cannot be used.
        StorageError: the file cannot be written.
    """
    started = time.perf_counter()
    name = f"{part.name}-{uuid.uuid4().hex[:8]}.parquet"
    with placed(recipe) as here:
        model, is_loaded = load_worker_model(here)
        assert isinstance(model, TabularModel)  # noqa: S101  for mypy
        begin_task(model)
        stats: Stats = {
            "n_tasks": 1,
            "n_model_loads": int(is_loaded),
            "load_s": time.perf_counter() - started if is_loaded else 0.0,
            "executor": executor_name(),
            "device": model.recipe.device,
        }
        try:
            with replaced_file(os.path.join(part.folder, name)) as staged:
                _write(part, model, batch_size, stats, staged, tally)
        except _UnreadableError as exc:
            return {"unreadable": str(exc)}
        finally:
            end_task(model)
    return {"name": name}


class _UnreadableError(Exception):
    """The rows of a part cannot be read."""


def _write(
    part: TablePart, model: TabularModel, batch_size: int, stats: Stats, path: str, tally: Tally | None
) -> None:
    chunk_rows = max(CHUNK_ROWS // batch_size, 1) * batch_size
    writer: pq.ParquetWriter | None = None
    first = part.first
    told = began = time.perf_counter()
    is_again = has_failed_before()
    try:
        for table in _read(part, model.takes.columns, chunk_rows):
            read_s = time.perf_counter() - began
            batch = _predicted(part, table, first, model, batch_size)
            n_rows = len(table)
            now = time.perf_counter()
            costs = {
                **stats,
                **batch.seconds,
                "read_s": read_s,
                "n_rows": n_rows,
                "n_rows_again": n_rows if is_again else 0,
                "task_s": now - told,
                **traffic.take(),
            }
            told, first = now, first + n_rows
            rows = batch.rows(model, costs)
            if writer is None:
                writer = _open_writer(path, rows.schema)
            writer.write_batch(rows)
            if tally is not None:
                add_to_tally(tally, rows.column(RESULT), model.gives)
            began = time.perf_counter()
            stats = {
                "encode_s": began - now,
                "executor": stats["executor"],
                "device": stats["device"],
            }
        if first != part.first + part.n_rows:
            raise _UnreadableError(f"{part.path}: row {first} is not there; it changed during the run")
    finally:
        if writer is not None:
            writer.close()


def _open_writer(path: str, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a file of a wave, which is read once and whole: what costs time and pays later is left out."""
    few = (ERROR, ERROR_DETAIL, TIMESTAMP, PREDICTION_CLASS)
    return pq.ParquetWriter(
        path,
        schema,
        use_dictionary=[SHARD, *(f"{RESULT}.{name}" for name in few)],
        column_encoding={SHARD_ROW: "DELTA_BINARY_PACKED"},
        write_statistics=False,
        compression="none",
    )


@dataclass
class _Batch:
    """Consecutive rows with their predictions, as a wave has them.

    Attributes:
        own: the output's own columns, the id first.
    """

    part: TablePart
    first: int
    own: dict[str, pa.Array]
    predicted: Predicted
    seconds: dict[str, float] = field(default_factory=dict)

    def rows(self, model: TabularModel, costs: Mapping[str, Any]) -> pa.RecordBatch:
        """Return the rows of the wave's table: id, results, other own columns, and where they are from."""
        n_rows = len(next(iter(self.own.values())))
        result = make_table_results(self.predicted.columns, self.predicted.errors, n_rows, model.gives, costs)
        (id_name, ids), *others = self.own.items()
        columns = {
            id_name: ids,
            RESULT: result,
            **dict(others),
            SHARD: pa.repeat(self.part.shard, n_rows),
            SHARD_ROW: pa.array(np.arange(self.first, self.first + n_rows)),
        }
        return pa.RecordBatch.from_pydict(columns)


def _predicted(part: TablePart, table: pa.Table, first: int, model: TabularModel, batch_size: int) -> _Batch:
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    n_rows = len(table)
    predicted = model.predict_table(columns, n_rows, batch_size, columns.get(FAULT))
    ids: pa.Array
    (id_name, id_type), *others = part.own
    if part.id_column is None:
        ids = pa.array([f"{part.shard}#{row}" for row in range(first, first + n_rows)])
    else:
        ids = columns[part.id_column].cast(to_arrow_type(id_type))
        if isinstance(id_type, T.StringType):
            ids = pa.compute.if_else(pa.compute.equal(ids, ""), None, ids)
    own = {id_name: ids, **shown_features(model.signature, predicted, others)}
    return _Batch(part, first, own, predicted, predicted.seconds)


def shown_features(
    signature: Signature, predicted: Predicted, wanted: Sequence[tuple[str, T.DataType]]
) -> dict[str, pa.Array]:
    """Return features as the output shows them: what the model got, a category as what it is."""
    features = {feature.name: feature for feature in signature.features}
    shown = {}
    for name, kind in wanted:
        values = predicted.features.columns[name]
        is_null = np.isnan(values)
        if categories := features[name].categories:
            known = pa.array(categories, to_arrow_type(kind))
            shown[name] = known.take(pa.array(np.where(is_null, 0, values).astype(np.int64), mask=is_null))
        else:
            shown[name] = pa.array(values, mask=is_null).cast(to_arrow_type(kind), safe=False)
    return shown


def _read(part: TablePart, names: Sequence[str], chunk_rows: int) -> Iterator[pa.Table]:
    """Yield the part's rows, so many at once whatever the row groups are; the last may be fewer.

    Raises:
        _UnreadableError: they cannot be read.
    """
    wanted = [*names, *([part.id_column] if part.id_column else [])]
    left, skipped = part.n_rows, part.first
    waiting: list[pa.RecordBatch] = []
    n_waiting = 0
    try:
        with pq.ParquetFile(parquet_input(part.path)) as file:
            there = file.schema_arrow.names
            if lacking := [name for name in wanted if name not in there]:
                raise _UnreadableError(f"{part.path}: has no column {lacking[0]!r}")
            columns = [name for name in dict.fromkeys((*wanted, FAULT)) if name in there]
            groups, before = [], 0
            for group in range(file.metadata.num_row_groups):
                n_rows = file.metadata.row_group(group).num_rows
                if before + n_rows <= part.first:
                    skipped -= n_rows
                elif before < part.first + part.n_rows:
                    groups.append(group)
                before += n_rows
            for batch in file.iter_batches(chunk_rows, row_groups=groups, columns=columns, use_threads=False):
                rows = batch.slice(skipped, left)
                skipped = max(0, skipped - len(batch))
                left -= len(rows)
                waiting.append(rows)
                n_waiting += len(rows)
                while n_waiting >= chunk_rows:
                    table = pa.Table.from_batches(waiting)
                    yield table.slice(0, chunk_rows)
                    waiting = table.slice(chunk_rows).to_batches()
                    n_waiting -= chunk_rows
                if not left:
                    break
        if n_waiting:
            yield pa.Table.from_batches(waiting)
    except (OSError, pa.ArrowException) as exc:
        if is_store_failure(exc):
            raise
        raise _UnreadableError(f"{part.path}: {one_line(exc)}") from exc
