"""What a run is bound to before its first wave: the source, the transport that works, preflight's answers."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from spark_embed.config import Config
from spark_embed.datasets import ParquetSource, readable_roots
from spark_embed.errors import ModelError, StorageError, one_line
from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.fetch.references import DownloadPolicy, FetchPolicy
from spark_embed.inference.preflight.parity import find_shortfall
from spark_embed.inference.preflight.preflight import Preflight, run_preflight
from spark_embed.inference.preflight.probe import ProbeOptions
from spark_embed.inference.preflight.rows import UnreachableError
from spark_embed.inference.recipes import make_feed_options, make_recipe
from spark_embed.inference.tally import Tally
from spark_embed.models import Recipe, Site
from spark_embed.models.registry import find_account
from spark_embed.output.summary import describe_measures, describe_parity
from spark_embed.run.wave import embed_table
from spark_embed.spark.cluster.census import read_settings
from spark_embed.spark.cluster.conf import planned_slots
from spark_embed.spark.settings import count_executors, count_slots, is_task_size_set, table_settings
from spark_embed.spark.task_size import Rate, TaskSize, find_task_size
from spark_embed.storage import exists

logger = logging.getLogger(__name__)

# References looked at for each image that parity wants: by reference, a null is seen only when it is read.
SAMPLE_FACTOR = 4


# Encoded images in a wave, for each slot, where nothing is known of a row's time.
_BLIND_WAVE_BYTES = 1 << 30

# Rows of urls in a first wave, for each slot: what downloads take is known once there have been some. A slot
# does between ten and a thousand a second; tasks are cut for a hundred.
_URL_WAVE_ROWS = 2_000
_URL_ROW_S = 0.01

_MAX_GROWTH = 4


@dataclass(frozen=True)
class Binding:
    """All that a run is bound to before its first wave.

    Attributes:
        n_slots: tasks that Spark runs at once.
        task_cpus: cores of each.
        wave_rows: rows of the first waves.
        task_size: what tasks get; None where their speed is not known, or somebody has set a size.
        settings: Spark's for tables of this data set, and for tasks of this size.
        profile_dir: where the tasks leave their profiles; None for nowhere.
    """

    source: ParquetSource
    preflight: Preflight
    options: FeedOptions
    n_slots: int
    task_cpus: int
    wave_rows: int
    task_size: TaskSize | None
    settings: dict[str, str]
    profile_dir: str | None

    def embedded(self, table: DataFrame, tally: Tally | None = None) -> DataFrame:
        """Return a table of references with its results; nothing runs yet. Tasks report to `tally`."""
        return embed_table(table, self.preflight.recipe, self.options, self.profile_dir, tally)


@dataclass(frozen=True)
class Known:
    """What a run knows before its preflight.

    Attributes:
        dtype: what "auto" has been resolved to by an earlier run that this one goes on with.
        jpeg_scaling: what that run has decided of --jpeg_scaling auto.
        folder: of the run's state, for what models must not lose; None: nothing is kept.
    """

    dtype: str | None = None
    jpeg_scaling: bool | None = None
    folder: str | None = None


def make_binding(
    spark: SparkSession,
    config: Config,
    source: ParquetSource,
    n_rows: int,
    known: Known,
) -> Binding:
    """Run the preflight with the best transport that works, and bind the run to its answers.

    Args:
        spark: the session.
        config: the options.
        source: the data set.
        n_rows: rows to embed.
        known: before the preflight.
    """
    if config.model_directory is None and config.task == "classify":
        logger.info("model: the embedded EfficientNet-Lite0, with ImageNet's 1,000 labels")
    elif config.model_directory is None:
        logger.info(
            "model: the embedded EfficientNet-Lite0 (ImageNet); for CLIP give "
            "--model_directory openai/clip-vit-large-patch14 or a folder that holds it"
        )
    roots = readable_roots(config, source.root)
    options = make_feed_options(config, make_fetch_policy(config, roots, source.image_column))
    wanted = ProbeOptions(
        config.parity_samples,
        config.parity_min_cosine,
        None if config.batch_size == "auto" else config.batch_size,
        False if config.jpeg_scaling == "off" else known.jpeg_scaling,
    )
    recipe = make_recipe(config)
    recipe = replace(recipe, site=_find_site(spark, config, recipe, known.folder))
    if recipe.dtype == "auto" and known.dtype:
        recipe = replace(recipe, dtype=known.dtype)
    unreachable: list[str] = []
    for transport in source.transports(config.image_transport):
        source = replace(source, transport=transport)
        sample = source.sample(max(1, SAMPLE_FACTOR * config.parity_samples))
        try:
            preflight = run_preflight(spark, sample, recipe, options, wanted)
        except UnreachableError as exc:
            unreachable.append(f"{transport}: {exc}")
            continue
        report_preflight(config, preflight)
        return _bind(spark, config, source, preflight, options, n_rows)
    raise StorageError(
        f"--image_transport {config.image_transport}: the workers cannot read the images: "
        + "; ".join(unreachable)
    )


def _find_site(spark: SparkSession, config: Config, recipe: Recipe, folder: str | None) -> Site:
    n_tasks = planned_slots(read_settings(spark), count_slots(spark)[0])
    site = Site(folder, n_tasks, count_executors(spark, n_tasks), config.max_cost)
    account = find_account(recipe.kind)
    if config.max_cost is None or account is None or folder is None or not exists(folder):
        return site
    return replace(site, paid_before=account(replace(recipe, site=site))["cost_usd"])


def make_fetch_policy(config: Config, roots: tuple[str, ...], column: str) -> FetchPolicy:
    """Return what a run may read: below `roots`, in `column` of its shards, and behind urls."""
    download = DownloadPolicy(
        connect_timeout_s=config.fetch_connect_timeout_s,
        read_timeout_s=config.fetch_read_timeout_s,
        timeout_s=config.fetch_timeout_s,
        redirects=config.fetch_redirects,
        attempts=config.fetch_attempts,
        concurrency=config.fetch_concurrency,
        concurrency_per_host=config.fetch_concurrency_per_host,
        allow_private_addresses=config.allow_private_addresses,
    )
    return FetchPolicy(roots, column, config.max_image_bytes, download)


def _bind(
    spark: SparkSession,
    config: Config,
    source: ParquetSource,
    preflight: Preflight,
    options: FeedOptions,
    n_rows: int,
) -> Binding:
    n_slots, task_cpus = count_slots(spark)
    n_planned = planned_slots(read_settings(spark), n_slots)
    # Those that dynamic allocation may bring get tasks; but if they do not come, a wave must not take hours.
    wave_slots = min(n_planned, _MAX_GROWTH * n_slots)
    row_bytes = source.image_bytes / max(source.n_rows, 1)
    wave_rows = round(_BLIND_WAVE_BYTES * wave_slots / max(row_bytes, 1))
    task_size = None
    if preflight.row_s is not None:
        wave_rows = round(config.wave_s * wave_slots / max(preflight.row_s, 1e-6))
    if source.has_urls:
        wave_rows = min(wave_rows, _URL_WAVE_ROWS * wave_slots)
    wave_rows = max(1, min(wave_rows, n_rows))
    if preflight.row_s is not None and not is_task_size_set(spark):
        share = wave_rows / max(source.n_rows, 1)
        n_bytes, n_files = round(source.n_bytes * share), math.ceil(len(source.shards) * share)
        row_s = max(preflight.row_s, _URL_ROW_S) if source.has_urls else preflight.row_s
        rate = Rate(row_s, n_planned, preflight.recipe.takes.ahead)
        task_size = find_task_size(n_bytes, wave_rows, n_files, rate)
    return Binding(
        source,
        preflight,
        replace(options, batch_size=preflight.batch_size, min_edge=preflight.model["jpeg_scaling"]),
        n_slots=n_slots,
        task_cpus=task_cpus,
        wave_rows=wave_rows,
        task_size=task_size,
        settings={
            **table_settings(
                source.n_bytes / max(source.n_rows, 1),
                n_slots=n_slots,
                plain_reader=source.needs_plain_reader,
            ),
            **(task_size.settings if task_size else {}),
        },
        profile_dir=os.path.abspath(config.profile_dir) if config.profile_dir else None,
    )


def report_preflight(config: Config, preflight: Preflight) -> None:
    """Say what preflight found, and refuse what --parity_action says to refuse."""
    parity = preflight.parity
    if preflight.unused_gpu:
        logger.warning("%s", preflight.unused_gpu)
    for model in (preflight.model, *preflight.model.get("models", {}).values()):
        if isinstance(model.get("preprocessing"), str):
            logger.warning(
                "no fast path for %s: images are prepared by transformers itself, which is slower",
                model["preprocessing"],
            )
    if rejected := parity["rejected"]:
        logger.info(
            "dtype: float32, because with %s %s; --dtype %s is faster",
            rejected["dtype"],
            find_shortfall({**parity, **rejected}, config.parity_min_cosine),
            rejected["dtype"],
        )
    if preflight.recipe.takes.image:
        _report_scaling(config, parity["jpeg_scaling"])
    logger.info("parity: %s", describe_parity(parity), extra={"parity": parity})
    if parity.get("unmeasured") or not config.parity_samples:
        return
    shortfall = find_shortfall(parity, config.parity_min_cosine)
    if parity["n_images"] and not shortfall:
        return
    text = (
        f"parity: {shortfall}; --dtype float32 is the most exact"
        if parity["n_images"]
        else f"parity: no {parity.get('what', 'images')[:-1]} of the sample could be compared"
        + (f" (the first: {one_line(preflight.unread, 120)})" if preflight.unread else "")
        + "; --parity_samples 0 goes without"
    )
    if config.parity_action == "fail":
        raise ModelError(f"{text} (--parity_action fail)")
    logger.warning("%s", text)


def _report_scaling(config: Config, scaling: dict[str, Any]) -> None:
    earlier = "as in the run that this one goes on with"
    if min_edge := scaling["min_edge"]:
        logger.info(
            "jpeg_scaling: JPEGs of %s pixels or more a side are decoded at 1/2, 1/4 or 1/8: %s",
            f"{2 * min_edge:,}",
            describe_measures(scaling) if scaling["n_images"] else earlier,
        )
    elif config.jpeg_scaling == "auto":
        logger.info("jpeg_scaling: none, %s", f"because {why}" if (why := scaling["why_not"]) else earlier)
