"""run(): source, preflight, wave, publish, summary. Read this first."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version

from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.errors import ModelError, StorageError
from spark_embed.feed import FeedOptions
from spark_embed.fetch import FetchPolicy
from spark_embed.preflight import ParityOptions, Preflight, UnreachableError, run_preflight
from spark_embed.progress import Progress
from spark_embed.publish import Output, check_output, count_published, publish, start_output
from spark_embed.source import ParquetSource, find_source
from spark_embed.storage import folder_path, write_json
from spark_embed.summary import Counts, RunSummary, describe_parity
from spark_embed.tables import settings, table_settings
from spark_embed.udf import make_feed_options, make_recipe
from spark_embed.wave import WaveCounts, count_wave, embed_table, read_wave, run_wave

logger = logging.getLogger(__name__)

# References looked at for each image that parity wants: by reference, a null is seen only when it is read.
SAMPLE_FACTOR = 4


def run(spark: SparkSession, config: Config) -> RunSummary:
    """Embed every image under `config.input_dir` into `config.output_dir`; runs on the driver.

    Every input row ends in embeddings.parquet or in errors.parquet. Nothing is written before the
    input, the output folder and the model have been found usable.

    Raises:
        ConfigError: an option or the input cannot be used.
        ModelError: the model cannot be used, or its parity is below a limit that was told to fail.
        StorageError: reading or writing failed, or rows went missing.
    """
    clock = Clock()
    with clock.measure("plan"):
        source = find_source(config)
        output = check_output(config)
    logger.info(
        "found %d shards, %s rows, layout %s", len(source.shards), f"{source.n_rows:,}", source.layout
    )
    with settings(spark, table_settings(source.n_bytes / max(source.n_rows, 1))):
        with clock.measure("preflight"):
            source, options, preflight = check_model(spark, config, source)
        start_output(output, {"started_at": clock.started_at, "model": preflight.model})

        table = source.table(spark) if config.max_samples is None else source.head(spark, config.max_samples)
        n_rows = min(source.n_rows, config.max_samples or source.n_rows)
        embedded = embed_table(table, preflight.recipe, options)
        with clock.measure("embed"), Progress(spark, n_rows):
            run_wave(embedded, output.wave)

        with clock.measure("publish"):
            wave = read_wave(embedded, output.wave)
            counted = count_wave(wave)
            publish(wave, output, config.output_file_bytes)
            check_nothing_lost(n_rows, counted, output)
    summary = _summarize(config, source, preflight, counted, output, clock)
    write_json(output.metadata, summary.to_dict())
    output.clear_wave()
    return summary


def describe_run(spark: SparkSession, config: Config) -> str:
    """Return what `run` would do, checked as `run` checks it; writes nothing (--dry_run).

    Raises:
        SparkEmbedError: as `run`.
    """
    source = find_source(config)
    output = check_output(config)
    with settings(spark, table_settings(source.n_bytes / max(source.n_rows, 1))):
        source, options, preflight = check_model(spark, config, source)
        n_rows = min(source.n_rows, config.max_samples or source.n_rows)
        embedded = embed_table(source.table(spark), preflight.recipe, options)
        n_tasks = embedded.rdd.getNumPartitions()
    own = ", ".join(f"{field.name}: {field.dataType.simpleString()}" for field in source.own_columns)
    return "\n".join(
        [
            f"layout   {source.layout}, images in column {source.image_column!r}",
            f"shards   {len(source.shards):,} in {source.root}, {source.n_bytes:,} bytes",
            f"rows     {source.n_rows:,}, of which {n_rows:,} would be embedded",
            f"columns  {own or 'none'}; image_id from {source.id_column or 'shard#row'}",
            f"model    {preflight.model['name']}, {preflight.model['embedding_dim']} values, "
            f"{preflight.model['dtype']} on {preflight.model['device']}",
            f"parity   {describe_parity(preflight.parity)}",
            f"images   by {source.transport}",
            f"plan     one job of {n_tasks} tasks, {spark.sparkContext.defaultParallelism} at once",
            f"output   {output.root}",
        ]
    )


def check_model(
    spark: SparkSession, config: Config, source: ParquetSource
) -> tuple[ParquetSource, FeedOptions, Preflight]:
    """Run the preflight; return the source with its transport resolved, the feed's options, its answers."""
    if config.model_directory is None:
        logger.info(
            "model: the embedded EfficientNet-Lite0 (ImageNet); for CLIP give "
            "--model_directory openai/clip-vit-base-patch32 or a folder that holds it"
        )
    roots = (source.root, *(folder_path(root, "--allowed_roots") for root in config.allowed_roots))
    options = make_feed_options(config, FetchPolicy(roots=roots, column=source.image_column))
    parity = ParityOptions(config.parity_samples, config.parity_min_cosine)
    tried: list[str] = []
    for transport in source.transports(config.image_transport):
        source = replace(source, transport=transport)
        sample = source.sample(spark, max(1, SAMPLE_FACTOR * config.parity_samples))
        try:
            preflight = run_preflight(spark, sample, make_recipe(config), options, parity)
        except UnreachableError as exc:
            tried.append(f"{transport}: {exc}")
            continue
        report_preflight(config, preflight)
        return source, options, preflight
    raise StorageError(
        f"--image_transport {config.image_transport}: the workers cannot read the images: " + "; ".join(tried)
    )


def report_preflight(config: Config, preflight: Preflight) -> None:
    """Say what preflight found, and refuse what --parity_action says to refuse."""
    if isinstance(preflight.model["preprocessing"], str):
        logger.warning(
            "no fast path for %s: images are prepared by transformers itself, which is slower",
            preflight.model["preprocessing"],
        )
    if rejected := preflight.parity["rejected"]:
        logger.info(
            "dtype: float32, because %s takes a vector's cosine down to %.6f (--parity_min_cosine %s); "
            "--dtype %s is faster",
            rejected["dtype"],
            rejected["min_cosine"],
            config.parity_min_cosine,
            rejected["dtype"],
        )
    logger.info("parity: %s", describe_parity(preflight.parity))
    cosine = preflight.parity["min_cosine"]
    if cosine is not None and not cosine >= config.parity_min_cosine:  # NaN is below, too
        text = (
            f"parity: smallest cosine with plain transformers is {cosine:.6f}, below --parity_min_cosine "
            f"{config.parity_min_cosine}; --dtype float32 is the most exact"
        )
        if config.parity_action == "fail":
            raise ModelError(text)
        logger.warning("%s", text)


def check_nothing_lost(n_rows: int, counted: WaveCounts, output: Output) -> None:
    """Compare the rows that went in with those that are published.

    Raises:
        StorageError: they are not the same number.
    """
    n_embedded, n_errors = count_published(output)
    n_wave_errors = sum(counted.n_errors_by_code.values())
    if (n_embedded + n_errors, n_errors) != (n_rows, n_wave_errors):
        raise StorageError(
            f"{n_rows} rows in, but {n_embedded} in {output.embeddings} and {n_errors} in {output.errors}: "
            "a shard changed during the run, or this is a bug; run again with --overwrite"
        )


class Clock:
    """Names and adds up the seconds of a run."""

    def __init__(self) -> None:
        self.started_at = _now()
        self.timings_s: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Record how long the `with` block takes."""
        started = time.perf_counter()
        yield
        self.timings_s[name] = round(time.perf_counter() - started, 3)

    def with_total(self) -> dict[str, float]:
        """Return the timings, and the seconds since the clock was made as "total"."""
        return {**self.timings_s, "total": round(time.perf_counter() - self._start, 3)}


def _summarize(
    config: Config,
    source: ParquetSource,
    preflight: Preflight,
    counted: WaveCounts,
    output: Output,
    clock: Clock,
) -> RunSummary:
    n_errors = sum(counted.n_errors_by_code.values())
    return RunSummary(
        status="complete",
        counts=Counts(counted.n_rows, counted.n_rows - n_errors, n_errors, counted.n_errors_by_code),
        model=preflight.model,
        input={
            "input_dir": config.input_dir,
            "layout": source.layout,
            "n_shards": len(source.shards),
            "n_rows": source.n_rows,
            "n_bytes": source.n_bytes,
            "image_column": source.image_column,
            "transport": source.transport,
        },
        output=output.describe(),
        timings_s=clock.with_total(),
        stage_s=counted.stage_s,
        throughput={"images_per_s": round(counted.n_rows / max(clock.timings_s["embed"], 1e-3), 1)},
        parity=preflight.parity,
        n_model_loads=counted.n_loads,
        versions={"spark_embed": version("spark-embed"), "pyspark": version("pyspark"), **preflight.versions},
        config=config.model_dump(mode="json"),
        started_at=clock.started_at,
        finished_at=_now(),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
