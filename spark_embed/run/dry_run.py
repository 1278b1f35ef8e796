"""What a run would do, found out as a run does (--dry_run)."""

from __future__ import annotations

import math
from collections import deque

from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.datasets import find_layout
from spark_embed.datasets.units import take_wave
from spark_embed.output.folder import check_output
from spark_embed.output.summary import describe_model, describe_parity
from spark_embed.run.begin import check_model, check_model_files
from spark_embed.run.binding import Known, make_binding
from spark_embed.run.clock import Clock
from spark_embed.run.context import RunContext
from spark_embed.run.one_file import check_unchanged
from spark_embed.run.plan import find_plan, report_plan
from spark_embed.run.table_wave import cut
from spark_embed.secrets import fill_environment
from spark_embed.spark.context import count_partitions
from spark_embed.spark.s3.s3a import export_s3_environment
from spark_embed.spark.session import Session, as_session
from spark_embed.spark.settings import settings
from spark_embed.storage import copy_tree, impatient, undone, undone_if_empty


def describe_run(spark: SparkSession | Session, config: Config) -> str:
    """Return what `spark_embed.pipeline.run` would do, checked as it checks it; leaves nothing written.

    Raises:
        SparkEmbedError: as `run`.
    """
    export_s3_environment(config)
    fill_environment(config.secrets)
    with impatient():
        layout, run_state = find_layout(config), check_output(config)
        check_model_files(spark, config, run_state)
    output = run_state.as_draft()
    context = RunContext(as_session(spark, config), config, Clock(), output, check=lambda: None)
    # Another run may begin meanwhile: what is not empty is its.
    with undone_if_empty(output.root), undone_if_empty(output.state), undone(output.draft or ""):
        copy_tree(run_state.index, output.index)
        copy_tree(run_state.catalogue, output.catalogue)
        plan = find_plan(context, layout)
        report_plan(plan, prune=config.prune)
        check_unchanged(context, plan)
        source, n_rows = plan.source, plan.pending.n_left
        binding = make_binding(context.spark, config, source, n_rows, Known(plan.dtype, plan.jpeg_scaling))
        if plan.run_state.record:
            check_model(context, plan, plan.run_state.record, binding)
        with settings(context.spark, binding.settings):
            units = take_wave(deque(plan.units), binding.wave_rows)
            if source.is_table:
                n_tasks = len(cut(binding, units, output.waves))
            else:
                n_tasks = count_partitions(source.table(context.spark, units)) if units else 0
    source, model = binding.source, binding.preflight.model
    own = ", ".join(f"{field.name}: {field.dataType.simpleString()}" for field in source.own_columns)
    n_waves = math.ceil(n_rows / binding.wave_rows)
    return "\n".join(
        [
            f"layout   {source.layout}, "
            + (
                f"images in column {source.image_column!r}, by {source.transport}"
                if source.image_column
                else "no image is read"
            ),
            f"shards   {source.n_shards:,} in {source.root}, {source.image_bytes:,} bytes",
            f"rows     {source.n_rows:,}, of which {n_rows:,} would be embedded",
            f"columns  {own or 'none'}; image_id from {source.id.name if source.id else 'shard#row'}",
            f"model    {describe_model(model)}",
            f"parity   {describe_parity(binding.preflight.parity)}",
            f"plan     {n_waves:,} waves, the first of {n_tasks} tasks, {binding.n_slots} at once",
            f"output   {output.root}",
        ]
    )
