"""Embeds some images of a data set to see what they take (spark-embed estimate); keeps no output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.datasets import find_layout
from spark_embed.datasets.units import Unit
from spark_embed.errors import ConfigError
from spark_embed.output.estimate import Pass, Sampled, find_pace
from spark_embed.output.executors import count_hosts
from spark_embed.output.folder import check_output
from spark_embed.output.records import Counted
from spark_embed.run.begin import bind_run, check_model_files
from spark_embed.run.binding import Binding
from spark_embed.run.clock import Clock
from spark_embed.run.context import RunContext
from spark_embed.run.error_budget import ErrorBudget
from spark_embed.run.limit import Limit
from spark_embed.run.plan import Plan, find_plan, report_plan
from spark_embed.run.publisher import Publisher
from spark_embed.run.report import add_up
from spark_embed.run.wave import count_wave, run_wave
from spark_embed.run.wave_job import WaveContext
from spark_embed.run.waves import run_waves
from spark_embed.schema import SHARD, SHARD_ROW
from spark_embed.spark.jobs import JobGroups
from spark_embed.spark.s3.s3a import export_s3_environment
from spark_embed.spark.s3.session import committer_settings
from spark_embed.spark.session import Session, as_session
from spark_embed.spark.settings import count_slots, settings
from spark_embed.storage import delete, impatient

# For each task that can run at once, so that each has several batches.
_LEAST_ROWS = 50

_SMALL_SHARE = 0.25
_LEAST_S = 15.0
_MAX_ROUNDS = 4


def sample_run(spark: SparkSession | Session, config: Config, clock: Clock, n_samples: int) -> Sampled:
    """Run over a sample as a whole run does, then again in workers that have the model; driver only.

    Args:
        spark: the session, or what gives one when it is needed.
        config: the options; --output_dir is made, and deleted in the end.
        clock: has measured what came before.
        n_samples: images, from as many places as tasks run at once; at least 50 for each of these.

    Raises:
        SparkEmbedError: as `spark_embed.pipeline.run`.
    """
    if config.task == "predict":
        raise ConfigError("estimate: is for images; a table takes seconds for a million rows")
    export_s3_environment(config)
    with impatient():
        layout, output = find_layout(config), check_output(config)
        check_model_files(spark, config, output)
    try:
        context = RunContext(as_session(spark, config), config, clock, output, check=lambda: None)
        plan = find_plan(context, layout)
        report_plan(plan, prune=False)
        n_slots, _ = count_slots(context.spark)
        units = spread(plan.units, n_slots, math.ceil(max(n_samples / n_slots, _LEAST_ROWS)))
        pending = replace(plan.pending, units=units, n_rows=_n_rows(units), n_complete=0)
        if not _n_rows(units):
            raise ConfigError(f"--input_dir {config.input_dir}: there is no row, so nothing to measure")
        binding, counted = _run(context, replace(plan, pending=pending))
        seconds = clock.total_s
        with settings(context.spark, {**binding.settings, **committer_settings(context.spark, config)}):
            rounds = list(_rounds(context, binding, units, n_slots))
    finally:
        delete(output.root)
    return Sampled(
        n_rows=plan.pending.n_rows,
        n_shards=plan.source.n_shards,
        n_sampled=_n_rows(units),
        seconds=seconds,
        n_slots=n_slots,
        n_machines=max(1, count_hosts(counted.executors)),
        device=binding.preflight.model["device"],
        pace=find_pace(rounds),
    )


def spread(units: Sequence[Unit], n_places: int, n_rows: int) -> tuple[Unit, ...]:
    """Return `n_rows` rows from each of so many places all over the units; all of them if there are no more.

    A place is the beginning of a row group: a worker that begins inside reads what is in front of it.
    """
    total = _n_rows(units)
    if total <= n_places * n_rows:
        return tuple(units)
    taken: list[Unit] = []
    next_row = 0  # of all units
    for place in range(n_places):
        begin, left, start = max(total * place // n_places, next_row), n_rows, 0
        for unit in units:
            end = start + unit.n_rows
            if left and begin < end:
                first = unit.first + begin - start
                if group := unit.shard.group_rows:
                    first = max(first - first % group, unit.first + max(next_row - start, 0))
                number = min(left, unit.first + unit.n_rows - first)
                taken.append(Unit(unit.shard, first, number))
                begin = next_row = start + first - unit.first + number
                left -= number
            start = end
    return tuple(taken)


def _run(context: RunContext, sample: Plan) -> tuple[Binding, Counted]:
    """Do what a run over the sample does, from preflight to publishing."""
    spark, config = context.spark, context.config
    record, binding = bind_run(context, sample)
    if binding is None:
        raise ValueError("there are rows, and no earlier run: there is a model")
    publisher, jobs = Publisher(context, sample, record), JobGroups(spark)
    budget, limit = ErrorBudget(spark, jobs, None, 1), Limit(config, context.clock)
    waves = WaveContext(context, binding, record.run_id, jobs, budget, limit, publisher.add)
    with settings(spark, {**binding.settings, **committer_settings(spark, config)}):
        run_waves(waves, sample.units, publisher.next_wave)
    counted = add_up([marker.counted for marker in publisher.of_this_run])
    publisher.finish()
    return binding, counted


def _rounds(
    context: RunContext, binding: Binding, units: Sequence[Unit], n_slots: int
) -> Iterator[tuple[Pass, Pass]]:
    """Embed a part of the sample, and all of it, until that has taken some seconds."""
    part = [unit._replace(n_rows=math.ceil(unit.n_rows * _SMALL_SHARE)) for unit in units]
    spent_s = 0.0
    for number in range(_MAX_ROUNDS):
        small = _pass(context, binding, part, n_slots, f"small-{number}")
        large = _pass(context, binding, units, n_slots, f"large-{number}")
        yield small, large
        spent_s += large.task_s
        if spent_s >= _LEAST_S:
            return


def _pass(context: RunContext, binding: Binding, units: Sequence[Unit], n_tasks: int, name: str) -> Pass:
    """Embed rows in so many tasks: in shorter ones few batches would be whole, as they are in a real run."""
    folder, place = context.output.wave(name), (SHARD, SHARD_ROW)
    table = binding.source.table(context.spark, units).repartitionByRange(n_tasks, *place)
    run_wave(binding.embedded(table.sortWithinPartitions(*place)), folder)
    counted = count_wave(folder, binding.preflight.recipe.gives).counted
    busy_s = sum(executor.busy_s for executor in counted.executors.values()) - counted.stage_s["load_s"]
    median_s = max(counted.median_task_s, 1e-9)
    return Pass(
        counted.n_rows / counted.n_tasks, busy_s / counted.n_tasks, counted.longest_task_s / median_s - 1
    )


def _n_rows(units: Sequence[Unit]) -> int:
    return sum(unit.n_rows for unit in units)
