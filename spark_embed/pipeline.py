"""run(): source, preflight, wave, publish, summary. Read this first."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import asdict, dataclass, replace

from pyspark.sql import DataFrame, SparkSession

from spark_embed.budget import ErrorBudget, Tally
from spark_embed.clock import Clock, now
from spark_embed.config import Config
from spark_embed.errors import ModelError, StorageError
from spark_embed.feed import FeedOptions
from spark_embed.fetch import FetchPolicy
from spark_embed.output import Output, check_output, start_output
from spark_embed.preflight import Preflight, ProbeOptions, UnreachableError, run_preflight
from spark_embed.progress import Progress
from spark_embed.publish import Published, publish, read_error_examples, stage
from spark_embed.source import ParquetSource, find_layout, needs_index, open_source
from spark_embed.storage import folder_path, undone, write_json
from spark_embed.summary import Counts, RunSummary, describe_model, describe_parity
from spark_embed.tables import Rate, count_slots, is_task_size_set, settings, table_settings, task_settings
from spark_embed.udf import make_feed_options, make_recipe
from spark_embed.verdict import Measured, judge
from spark_embed.wave import WaveCounts, count_wave, embed_table, run_wave

logger = logging.getLogger(__name__)

# References looked at for each image that parity wants: by reference, a null is seen only when it is read.
SAMPLE_FACTOR = 4


def run(spark: SparkSession, config: Config, clock: Clock | None = None) -> RunSummary:
    """Embed every image under `config.input_dir` into `config.output_dir`; runs on the driver.

    Every input row ends in embeddings.parquet or in errors.parquet. Nothing is written before the
    input, the output folder and the model have been found usable, and an older run is replaced only
    once every row of the new one is accounted for. `clock` may have measured what came before ("start").

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
            plan = check_model(spark, config, source)
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
            plan = check_model(spark, config, source)
            with settings(spark, plan.task_settings):
                n_tasks = plan.embedded(spark).rdd.getNumPartitions()
    source, model = plan.source, plan.preflight.model
    own = ", ".join(f"{field.name}: {field.dataType.simpleString()}" for field in source.own_columns)
    return "\n".join(
        [
            f"layout   {source.layout}, images in column {source.image_column!r}, by {source.transport}",
            f"shards   {source.n_shards:,} in {source.root}, {source.image_bytes:,} bytes",
            f"rows     {source.n_rows:,}, of which {plan.n_rows:,} would be embedded",
            f"columns  {own or 'none'}; image_id from {source.id_column or 'shard#row'}",
            f"model    {describe_model(model)}",
            f"parity   {describe_parity(plan.preflight.parity)}",
            f"plan     one job of {n_tasks} tasks, {plan.n_slots} at once",
            f"output   {output.root}",
        ]
    )


@dataclass(frozen=True)
class Plan:
    """All that a run was bound to before its first wave.

    Attributes:
        n_rows: rows to embed.
        n_slots: tasks that Spark runs at once.
        task_cpus: cores of each.
        task_settings: Spark's settings that size the tasks; empty where their speed is not known, or where
            somebody has set a size.
        profile_dir: where the tasks leave their profiles; None for nowhere.
    """

    source: ParquetSource
    preflight: Preflight
    options: FeedOptions
    n_rows: int
    n_slots: int
    task_cpus: int
    task_settings: dict[str, str]
    profile_dir: str | None

    def embedded(self, spark: SparkSession, tally: Tally | None = None) -> DataFrame:
        """Return the table with its results; nothing runs yet. Tasks report to `tally`."""
        whole = self.n_rows == self.source.n_rows
        table = self.source.table(spark) if whole else self.source.head(spark, self.n_rows)
        return embed_table(table, self.preflight.recipe, self.options, self.profile_dir, tally)


def report_source(source: ParquetSource) -> None:
    """Say what was found."""
    logger.info(
        "found %s %s shards, %s rows",
        f"{source.n_shards:,}",
        source.layout.replace("_", " "),
        f"{source.n_rows:,}",
        extra={"n_shards": source.n_shards, "n_rows": source.n_rows, "n_bytes": source.image_bytes},
    )


def check_model(spark: SparkSession, config: Config, source: ParquetSource) -> Plan:
    """Run the preflight with the best transport that works, and bind the run to its answers."""
    if config.model_directory is None:
        logger.info(
            "model: the embedded EfficientNet-Lite0 (ImageNet); for CLIP give "
            "--model_directory openai/clip-vit-large-patch14 or a folder that holds it"
        )
    roots = (source.root, *(folder_path(root, "--allowed_roots") for root in config.allowed_roots))
    options = make_feed_options(config, FetchPolicy(roots=roots, column=source.image_column))
    wanted = ProbeOptions(
        config.parity_samples,
        config.parity_min_cosine,
        None if config.batch_size == "auto" else config.batch_size,
    )
    unreachable: list[str] = []
    for transport in source.transports(config.image_transport):
        source = replace(source, transport=transport)
        sample = source.sample(max(1, SAMPLE_FACTOR * config.parity_samples))
        try:
            preflight = run_preflight(spark, sample, make_recipe(config), options, wanted)
        except UnreachableError as exc:
            unreachable.append(f"{transport}: {exc}")
            continue
        report_preflight(config, preflight)
        return _make_plan(spark, config, source, preflight, options)
    raise StorageError(
        f"--image_transport {config.image_transport}: the workers cannot read the images: "
        + "; ".join(unreachable)
    )


def _make_plan(
    spark: SparkSession, config: Config, source: ParquetSource, preflight: Preflight, options: FeedOptions
) -> Plan:
    n_slots, task_cpus = count_slots(spark)
    n_rows = min(source.n_rows, config.max_samples or source.n_rows)
    sizes: dict[str, str] = {}
    if preflight.row_s is not None and not is_task_size_set(spark):
        share = n_rows / max(source.n_rows, 1)
        n_bytes, n_files = round(source.n_bytes * share), math.ceil(len(source.shards) * share)
        sizes = task_settings(n_bytes, n_rows, n_files, Rate(preflight.row_s, n_slots))
    return Plan(
        source,
        preflight,
        replace(options, batch_size=preflight.batch_size),
        n_rows=n_rows,
        n_slots=n_slots,
        task_cpus=task_cpus,
        task_settings=sizes,
        profile_dir=os.path.abspath(config.profile_dir) if config.profile_dir else None,
    )


def report_preflight(config: Config, preflight: Preflight) -> None:
    """Say what preflight found, and refuse what --parity_action says to refuse."""
    parity = preflight.parity
    if isinstance(preflight.model["preprocessing"], str):
        logger.warning(
            "no fast path for %s: images are prepared by transformers itself, which is slower",
            preflight.model["preprocessing"],
        )
    if rejected := parity["rejected"]:
        logger.info(
            "dtype: float32, because %s takes a vector's cosine down to %.6f (--parity_min_cosine %s); "
            "--dtype %s is faster",
            rejected["dtype"],
            rejected["min_cosine"],
            config.parity_min_cosine,
            rejected["dtype"],
        )
    logger.info("parity: %s", describe_parity(parity), extra={"parity": parity})
    if not config.parity_samples or (parity["n_images"] and parity["min_cosine"] >= config.parity_min_cosine):
        return
    text = (
        f"parity: smallest cosine with plain transformers is {parity['min_cosine']:.6f}, below "
        f"--parity_min_cosine {config.parity_min_cosine}; --dtype float32 is the most exact"
        if parity["n_images"]
        else "parity: no image of the sample could be compared; --parity_samples 0 goes without"
    )
    if config.parity_action == "fail":
        raise ModelError(f"{text} (--parity_action fail)")
    logger.warning("%s", text)


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
