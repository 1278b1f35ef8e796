"""run(): source, what is left to do, preflight, waves, publish, summary. Read this first."""

from __future__ import annotations

import logging
import math
import os
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark.sql import SparkSession
from pyspark.sql import types as T

from spark_embed.budget import ErrorBudget
from spark_embed.clock import Clock
from spark_embed.config import Config
from spark_embed.errors import StorageError
from spark_embed.fingerprint import check_fingerprint, data_fingerprint, make_fingerprint, model_options
from spark_embed.jobs import JobGroups
from spark_embed.lock import OutputLock
from spark_embed.output import Output, check_output
from spark_embed.plan import Plan, make_plan
from spark_embed.progress import Progress
from spark_embed.publish import Change, publish
from spark_embed.report import Outcome, read_summary, write_summary
from spark_embed.resume import (
    Pending,
    Standing,
    find_pending,
    find_standing,
    names_of,
    report_pending,
    tidy,
)
from spark_embed.retry import find_retries
from spark_embed.schema import IMAGE_ID, RESULT, SHARD, SHARD_ROW
from spark_embed.source import BadShard, Layout, ParquetSource, find_layout, open_source
from spark_embed.source.fixed import with_columns
from spark_embed.source.units import Unit, take_wave
from spark_embed.state import Ledger, Marker, ProgressRecord, RunRecord, write_progress, write_run
from spark_embed.storage import delete, undone
from spark_embed.summary import RunSummary, describe_model, describe_parity
from spark_embed.tables import settings, table_settings
from spark_embed.wave import embed_table
from spark_embed.waves import Wave, WaveContext, run_waves

logger = logging.getLogger(__name__)

# Data of waves beyond which it is published while the run goes on, in files of --output_file_bytes: enough
# for a publishing to be worth its while, little enough for no disk to fill up with what is there twice.
_PUBLISH_FILES = 16


def run(spark: SparkSession, config: Config, clock: Clock | None = None) -> RunSummary:
    """Bring `config.output_dir` up to date with `config.input_dir`; runs on the driver.

    Every input row ends in embeddings.parquet or in errors.parquet, once. What is complete already, from an
    interrupted run or from one before new shards came, is not done again. `clock` may have measured what came
    before ("start").

    Raises:
        ConfigError: an option or the input cannot be used.
        ModelError: the model cannot be used, or its parity is below a limit that was told to fail.
        StorageError: reading or writing failed, or rows went missing.
        ErrorBudgetExceeded: more rows are errors than --max_error_fraction allows.
        ResumeError: another run is at work in the folder, or what stands there is of another model.
    """
    clock = clock or Clock()
    with clock.measure("plan"):
        layout, output = find_layout(config), check_output(config)
    with undone_if_never_begun(output), OutputLock(output.lock, output.root) as lock:
        with clock.measure("plan"):
            standing = find_standing(output, config)
            source, pending = open_input(spark, config, layout, output, standing)
            report_pending(source, pending, prune=config.prune)
        work = _Run(spark, config, clock, output, lock, source, pending, standing)
        with settings(spark, table_settings(source.n_bytes / max(source.n_rows, 1))):
            return work.run()


def open_input(
    spark: SparkSession, config: Config, layout: Layout, output: Output, standing: Standing
) -> tuple[ParquetSource, Pending]:
    """Return the data set, in the columns that it was begun with, and what of it is left to do.

    Raises:
        ConfigError, StorageError: it cannot be used.
        ResumeError: it is not what has been begun.
    """
    if standing.record is None and layout.is_folder:
        delete(output.index)
    source = open_source(spark, config, layout, output)
    if record := standing.record:
        schema = T.StructType.fromJson(record.table_schema)
        ours = (IMAGE_ID, SHARD, SHARD_ROW, RESULT)
        source = with_columns(source, {f.name: f.dataType for f in schema if f.name not in ours})
        check_fingerprint(output.root, record.fingerprint, data_fingerprint(config, source))
    return source, find_pending(source, standing, config.max_samples)


@dataclass
class _Run:
    """One run, under its lock: what stands in the folder is brought up to date, step by step."""

    spark: SparkSession
    config: Config
    clock: Clock
    output: Output
    lock: OutputLock
    source: ParquetSource
    pending: Pending
    standing: Standing

    def __post_init__(self) -> None:
        self._ledger: Ledger | None = self.standing.ledger
        self._markers: list[Marker] = list(self.standing.markers)
        self._this_run: list[Marker] = []
        self._versions = {shard.name: shard.version for shard in self.source.shards}

    def run(self) -> RunSummary:
        """Do what is left to do; returns the summary, which is in metadata.json then."""
        if self.standing.record:
            tidy(self.output, self.standing)
        record, plan, bad = self.standing.record, None, list[BadShard]()
        units = self.pending.units
        if record is None and not units:
            units = (Unit(self.source.shards[0], 0, 0),)  # no row at all: files that say so
        retries = self.config.retry_errors and self._ledger is not None and self._ledger.n_errors > 0
        if units or retries or not record or record.options != model_options(self.config):
            n_rows = sum(unit.n_rows for unit in units)
            with self.clock.measure("preflight"):
                dtype = record.fingerprint["dtype"] if record else None
                plan = make_plan(self.spark, self.config, self.source, n_rows, dtype)
            record = self._bind(plan, record)
            with self.clock.measure("embed"), settings(self.spark, plan.task_settings):
                bad = self._embed(plan, record, units, retries=retries)
        with self.clock.measure("publish"):
            change = self._change(bad)
            is_changed = bool(self._markers or change.removed or self._has_new_voids() or not self._ledger)
            if is_changed:
                self.lock.check()
                self._publish(record, change)
        return self._finish(record, plan, bad)

    def _bind(self, plan: Plan, old: RunRecord | None) -> RunRecord:
        """Return the record of the run that has this plan, once it is written."""
        preflight = plan.preflight
        data = data_fingerprint(self.config, self.source)
        fingerprint = make_fingerprint(data, preflight.model)
        if old:
            check_fingerprint(self.output.root, old.fingerprint, fingerprint)
        schema = embed_table(
            self.source.table(self.spark, [Unit(self.source.shards[0], 0, 0)]), preflight.recipe, plan.options
        ).schema
        record = RunRecord(
            run_id=old.run_id if old else uuid.uuid4().hex,
            started_at=old.started_at if old else self.clock.started_at,
            options=model_options(self.config),
            fingerprint=fingerprint,
            table_schema=old.table_schema if old else schema.jsonValue(),
            model=preflight.model,
            parity=preflight.parity,
            versions=preflight.versions,
        )
        write_run(self.output, record)
        if old is None:
            tidy(self.output, self.standing)
        return record

    def _embed(
        self, plan: Plan, record: RunRecord, units: tuple[Unit, ...], *, retries: bool
    ) -> list[BadShard]:
        """Embed what is pending, in waves; returns the shards that turned out to be unreadable."""
        jobs = JobGroups(self.spark)
        budget = ErrorBudget(self.spark, jobs, self.config.max_error_fraction, self.config.min_error_count)

        def done(marker: Marker) -> None:
            self._markers.append(marker)
            self._this_run.append(marker)
            if self._may_publish_early():
                self._publish(record, self._change([]))

        context = WaveContext(
            self.spark,
            plan,
            self.output,
            record.run_id,
            self.config.wave_s,
            jobs,
            budget,
            check=self.lock.check,
            done=done,
            apart=self.source.is_folder,
        )
        waves = list[Wave]()
        if retries and self._ledger:
            waves = find_retries(self.output, self._ledger, self.source, plan.wave_rows)
        first = 1 + max((int(one.wave.partition("-")[0]) for one in self._markers), default=-1)
        n_rows = sum(unit.n_rows for unit in units)
        started = time.monotonic()

        def tell(n_done: int) -> None:
            write_progress(self.output, self._progress(record, "embed", n_done, time.monotonic() - started))

        with Progress(jobs, n_rows, tell), budget:
            return run_waves(context, units, first, waves)

    def _progress(self, record: RunRecord, phase: str, n_done: int, embed_s: float) -> ProgressRecord:
        n_now = sum(marker.counted.n_rows for marker in self._this_run)
        n_left = self.pending.n_rows - self.pending.n_complete - n_done
        codes = dict(self._ledger.n_errors_by_code) if self._ledger else {}
        for marker in self._markers:
            for code, number in marker.counted.n_errors_by_code.items():
                codes[code] = codes.get(code, 0) + number
        return ProgressRecord(
            run_id=record.run_id,
            phase=phase,
            started_at=self.clock.started_at,
            updated_s=time.time(),
            n_rows=self.pending.n_rows,
            n_complete=min(self.pending.n_complete + n_now, self.pending.n_rows),
            n_done_now=n_done,
            n_shards=self.pending.n_shards,
            n_complete_shards=self.pending.n_complete_shards,
            n_errors_by_code=codes,
            embed_s=round(embed_s, 1),
            left_s=round(embed_s * max(n_left, 0) / n_done, 1) if n_done else None,
        )

    def _has_new_voids(self) -> bool:
        return set(self.source.voided) != set(self._ledger.voided if self._ledger else ())

    def _may_publish_early(self) -> bool:
        """Say whether enough is unpublished, and publishing would take nothing away from readers."""
        n_bytes = sum(sum(marker.files.values()) for marker in self._markers)
        return (
            n_bytes > _PUBLISH_FILES * self.config.output_file_bytes
            and not (self.pending.replaced or self._has_new_voids() or self.standing.older)
            and not self.config.retry_errors
        )

    def _change(self, bad: list[BadShard]) -> Change:
        """Return what the unpublished waves change, and what is gone from the input."""
        incomplete = names_of(self._left(bad))
        gone = frozenset(self.pending.gone if self.config.prune else ())
        withheld = self.pending.replaced & incomplete
        return Change(
            tuple(self._markers),
            self._versions,
            withheld,
            (self.pending.replaced - withheld) | gone,
            self.source.voided,
        )

    def _left(self, bad: list[BadShard]) -> list[Unit]:
        """Return the units that are still pending once the waves are over: those of unreadable shards."""
        names = {shard.name for shard in bad}
        return [unit for unit in self.pending.units if unit.shard.name in names]

    def _publish(self, record: RunRecord, change: Change) -> None:
        file_bytes = self.config.output_file_bytes
        self._ledger = publish(self.spark, self.output, record, self._ledger, change, file_bytes)
        self._markers = []

    def _finish(self, record: RunRecord, plan: Plan | None, bad: list[BadShard]) -> RunSummary:
        """Write metadata.json, if it is not what it would be; say how it went."""
        if self._ledger is None:
            raise RuntimeError("nothing has been published")
        bad = [*self.source.bad, *bad]
        outcome = Outcome(
            self.config,
            self.output,
            self.source,
            self.pending,
            record,
            self._ledger,
            self._this_run,
            bad,
            plan,
        )
        summary = None if self._this_run else read_summary(outcome)
        if summary:
            logger.info("nothing to do: all %s shards are complete", f"{self.pending.n_shards:,}")
        else:
            summary = write_summary(outcome, self.clock)
            logger.info("done", extra={"counts": summary.to_dict()["counts"], "timings_s": summary.timings_s})
        write_progress(
            self.output, self._progress(record, "done", sum(m.counted.n_rows for m in self._this_run), 0.0)
        )
        if bad and self.config.fail_on_bad_shard:
            raise StorageError(
                f"{len(bad):,} shards cannot be read (--fail_on_bad_shard), all others are done; the first, "
                f"{bad[0].name}: {bad[0].reason}"
            )
        return summary


@contextmanager
def undone_if_never_begun(output: Output) -> Iterator[None]:
    """Delete the output folder again if a `with` block fails before anything of worth is in it."""
    was_there = os.path.lexists(output.root)
    try:
        yield
    finally:
        if not was_there and not os.path.exists(output.run_record) and not os.path.exists(output.index):
            delete(output.root)


def describe_run(spark: SparkSession, config: Config) -> str:
    """Return what `run` would do, checked as `run` checks it; leaves nothing written (--dry_run).

    Raises:
        SparkEmbedError: as `run`.
    """
    layout, output = find_layout(config), check_output(config)
    with undone(output.root), undone(output.index), undone(output.catalogue):
        standing = find_standing(output, config)
        source, pending = open_input(spark, config, layout, output, standing)
        report_pending(source, pending, prune=config.prune)
        n_rows = pending.n_rows - pending.n_complete
        with settings(spark, table_settings(source.n_bytes / max(source.n_rows, 1))):
            plan = make_plan(spark, config, source, n_rows)
            with settings(spark, plan.task_settings):
                table = source.table(spark, take_wave(deque(pending.units), plan.wave_rows))
                n_tasks = plan.embedded(table).rdd.getNumPartitions()
    if standing.record:
        fingerprint = make_fingerprint(data_fingerprint(config, source), plan.preflight.model)
        check_fingerprint(output.root, standing.record.fingerprint, fingerprint)
    source, model = plan.source, plan.preflight.model
    own = ", ".join(f"{field.name}: {field.dataType.simpleString()}" for field in source.own_columns)
    n_waves = math.ceil(n_rows / plan.wave_rows)
    return "\n".join(
        [
            f"layout   {source.layout}, images in column {source.image_column!r}, by {source.transport}",
            f"shards   {source.n_shards:,} in {source.root}, {source.image_bytes:,} bytes",
            f"rows     {source.n_rows - source.n_voided:,}, of which {n_rows:,} would be embedded",
            f"columns  {own or 'none'}; image_id from {source.id.name if source.id else 'shard#row'}",
            f"model    {describe_model(model)}",
            f"parity   {describe_parity(plan.preflight.parity)}",
            f"plan     {n_waves:,} waves, the first of {n_tasks} tasks, {plan.n_slots} at once",
            f"output   {output.root}",
        ]
    )
