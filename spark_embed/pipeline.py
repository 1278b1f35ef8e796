"""run(): source, preflight, wave, publish, summary. Read this first."""

from __future__ import annotations

import logging
from dataclasses import asdict

from pyspark.sql import SparkSession

from spark_embed.budget import ErrorBudget
from spark_embed.clock import Clock, now
from spark_embed.config import Config
from spark_embed.errors import StorageError
from spark_embed.output import Output, check_output, start_output
from spark_embed.plan import Plan, make_plan
from spark_embed.progress import Progress
from spark_embed.publish import Published, publish, read_error_examples, stage
from spark_embed.source import ParquetSource, find_layout, needs_index, open_source
from spark_embed.storage import undone, write_json
from spark_embed.summary import Counts, RunSummary, describe_model, describe_parity
from spark_embed.tables import settings, table_settings
from spark_embed.verdict import Measured, judge
from spark_embed.wave import WaveCounts, count_wave, run_wave

logger = logging.getLogger(__name__)


def run(spark: SparkSession, config: Config, clock: Clock | None = None) -> RunSummary:
    """Embed every image under `config.input_dir` into `config.output_dir`; runs on the driver.

    Every input row ends in embeddings.parquet or in errors.parquet. Nothing but an index, where the input
    needs one, is written before the input, the output folder and the model have been found usable, and an
    older run is replaced only once every row of the new one is accounted for. `clock` may have measured
    what came before ("start").

    Raises:
        ConfigError: an option or the input cannot be used.
        ModelError: the model cannot be used, or its parity is below a limit that was told to fail.
        StorageError: reading or writing failed, or rows went missing.
        ErrorBudgetExceeded: more rows are errors than --max_error_fraction allows.
    """
    clock = clock or Clock()
    with clock.measure("plan"):
        layout, output = find_layout(config), check_output(config)
        if needs_index(layout):
            start_output(output, {"started_at": clock.started_at})
        source = open_source(spark, config, layout, output.index)
        report_source(source)
    with settings(spark, table_settings(source.n_bytes / max(source.n_rows, 1))):
        with clock.measure("preflight"):
            plan = make_plan(spark, config, source)
        start_output(output, {"started_at": clock.started_at, "model": plan.preflight.model})
        budget = ErrorBudget(spark, config.max_error_fraction, config.min_error_count)
        with (
            settings(spark, plan.task_settings),
            clock.measure("embed"),
            Progress(spark, plan.n_rows),
            budget,
        ):
            embedded = plan.embedded(spark, budget.tally)
            run_wave(embedded, output.wave)
        with clock.measure("publish"):
            counted = count_wave(output.wave)
            budget.check(counted.n_errors_by_code, counted.n_rows)
            published = stage(spark, embedded.schema, output, plan.n_rows, config.output_file_bytes)
            check_nothing_lost(plan.n_rows, counted, published)
            publish(output)
    summary = _summarize(config, plan, counted, output, published, clock)
    write_json(output.metadata, summary.to_dict())
    output.clear_state()
    logger.info("done", extra={"counts": summary.to_dict()["counts"], "timings_s": summary.timings_s})
    return summary


def describe_run(spark: SparkSession, config: Config) -> str:
    """Return what `run` would do, checked as `run` checks it; leaves nothing written (--dry_run).

    Raises:
        SparkEmbedError: as `run`.
    """
    layout, output = find_layout(config), check_output(config)
    with undone(output.root), undone(output.index):
        source = open_source(spark, config, layout, output.index)
        report_source(source)
        with settings(spark, table_settings(source.n_bytes / max(source.n_rows, 1))):
            plan = make_plan(spark, config, source)
            with settings(spark, plan.task_settings):
                n_tasks = plan.embedded(spark).rdd.getNumPartitions()
    source, model = plan.source, plan.preflight.model
    own = ", ".join(f"{field.name}: {field.dataType.simpleString()}" for field in source.own_columns)
    return "\n".join(
        [
            f"layout   {source.layout}, images in column {source.image_column!r}, by {source.transport}",
            f"shards   {source.n_shards:,} in {source.root}, {source.image_bytes:,} bytes",
            f"rows     {source.n_rows:,}, of which {plan.n_rows:,} would be embedded",
            f"columns  {own or 'none'}; image_id from {source.id.name if source.id else 'shard#row'}",
            f"model    {describe_model(model)}",
            f"parity   {describe_parity(plan.preflight.parity)}",
            f"plan     one job of {n_tasks} tasks, {plan.n_slots} at once",
            f"output   {output.root}",
        ]
    )


def report_source(source: ParquetSource) -> None:
    """Say what was found."""
    logger.info(
        "found %s %s shards, %s rows",
        f"{source.n_shards:,}",
        source.layout.replace("_", " "),
        f"{source.n_rows:,}",
        extra={"n_shards": source.n_shards, "n_rows": source.n_rows, "n_bytes": source.image_bytes},
    )


def check_nothing_lost(n_rows: int, counted: WaveCounts, published: Published) -> None:
    """Compare the rows that went in with those that would be published.

    Raises:
        StorageError: they are not the same number; what was published before is untouched.
    """
    n_wave_errors = sum(counted.n_errors_by_code.values())
    n_out = published.n_embedded + published.n_errors
    if (n_out, published.n_errors) != (n_rows, n_wave_errors):
        raise StorageError(
            f"{n_rows} rows in, but {published.n_embedded} vectors and {published.n_errors} errors out: a "
            "shard changed during the run, or this is a bug; nothing was published; run again (--overwrite)"
        )


def _summarize(
    config: Config, plan: Plan, counted: WaveCounts, output: Output, published: Published, clock: Clock
) -> RunSummary:
    source = plan.source
    n_errors = sum(counted.n_errors_by_code.values())
    model = plan.preflight.model
    measured = Measured(
        counted.stage_s,
        counted.n_tasks,
        plan.n_slots,
        clock.timings_s["embed"],
        model["device"],
        plan.task_cpus,
    )
    return RunSummary(
        status="complete",
        counts=Counts(counted.n_rows, counted.n_rows - n_errors, n_errors, counted.n_errors_by_code),
        error_examples=read_error_examples(output, list(counted.n_errors_by_code)),
        model=model,
        input={
            "input_dir": config.input_dir,
            "layout": source.layout,
            "n_shards": source.n_shards,
            "n_rows": source.n_rows,
            "n_bytes": source.image_bytes,
            "image_column": source.image_column,
            "transport": source.transport,
        },
        output={"output_dir": output.root, "n_files": published.n_files, "n_bytes": published.n_bytes},
        timings_s=clock.with_total(),
        stage_s=counted.stage_s,
        throughput={"images_per_s": round(counted.n_rows / max(clock.timings_s["embed"], 1e-3), 1)},
        parity=plan.preflight.parity,
        verdict=asdict(judge(measured)),
        n_tasks=counted.n_tasks,
        batch_size=min(plan.options.batch_size, counted.batch_limit or plan.options.batch_size),
        n_model_loads=counted.n_model_loads,
        versions=plan.preflight.versions,
        config=config.model_dump(mode="json"),
        started_at=clock.started_at,
        finished_at=now(),
    )
