"""run(): what there is to do, preflight, waves, publish, summary. Read this first."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.datasets import BadShard, find_layout
from spark_embed.errors import BadShardsError, ResumeError, SparkLostError, StoppedError, StorageError
from spark_embed.output.folder import Output, check_output
from spark_embed.output.lock.lock import OutputLock
from spark_embed.output.summary import RunSummary
from spark_embed.run.begin import bind_run, check_model_files
from spark_embed.run.binding import Binding
from spark_embed.run.clock import Clock
from spark_embed.run.context import RunContext
from spark_embed.run.error_budget import ErrorBudget
from spark_embed.run.limit import Limit, list_executors
from spark_embed.run.one_file import check_unchanged
from spark_embed.run.plan import Plan, find_plan, report_plan
from spark_embed.run.progress import Progress
from spark_embed.run.progress_file import ProgressFile
from spark_embed.run.publisher import Publisher
from spark_embed.run.report import RunResult, read_summary, write_summary
from spark_embed.run.retry import find_retries
from spark_embed.run.wave_failure import explain_store_failure
from spark_embed.run.wave_job import WaveContext
from spark_embed.run.waves import run_waves
from spark_embed.secrets import fill_environment
from spark_embed.spark.context import what_is_lost
from spark_embed.spark.jobs import JobGroups
from spark_embed.spark.s3.s3a import export_s3_environment
from spark_embed.spark.s3.session import committer_settings
from spark_embed.spark.session import Session, as_session
from spark_embed.spark.settings import settings
from spark_embed.spark.tasks import traffic_of_tasks
from spark_embed.storage import delete, exists, impatient, traffic

logger = logging.getLogger(__name__)


def run(spark: SparkSession | Session, config: Config, clock: Clock | None = None) -> RunSummary:
    """Bring `config.output_dir` up to date with `config.input_dir`; runs on the driver.

    Every input row ends in embeddings.parquet or in errors.parquet, once. What is complete already, from an
    interrupted run or from one before new shards came, is not done again.

    Args:
        spark: the session, or what gives one when it is needed.
        config: the options.
        clock: may have measured what came before ("start").

    Raises:
        ConfigError: an option or the input cannot be used.
        ModelError: the model cannot be used, or its parity is below a limit that was told to fail.
        StorageError: reading or writing failed, or rows went missing.
        BadShardsError: shards cannot be read; all others are done (--fail_on_bad_shard).
        StoppedError: --max_hours or --max_cost is reached; what is complete stays.
        SparkLostError: the JVM has ended.
        ErrorBudgetExceeded: more rows are errors than --max_error_fraction allows.
        ResumeError: another run is at work in the folder, or what stands there is of another model.
    """
    clock = clock or Clock()
    for earlier in (traffic, traffic_of_tasks):  # of this process's runs before
        earlier.take()
    export_s3_environment(config)
    fill_environment(config.secrets)
    with clock.measure("plan"), impatient():
        layout, output = find_layout(config), check_output(config)
        is_new = not exists(output.root)
        check_model_files(spark, config, output)
    with (
        OutputLock(output.lock, output.root) as lock,
        deleted_unless_begun(output, lock, is_new=is_new),
        as_known_failure(lock),
    ):
        context = RunContext(as_session(spark, config), config, clock, output, lock.check, lock.watch)
        with clock.measure("plan"):
            plan = find_plan(context, layout)
            report_plan(plan, prune=config.prune)
            check_unchanged(context, plan)
        with clock.measure("preflight"):
            record, binding = bind_run(context, plan)
        publisher = Publisher(context, plan, record)
        publisher.settle()
        progress = ProgressFile(context, plan, publisher)
        limit = Limit(config, clock)
        with clock.measure("embed"):
            unreadable = embed(context, plan, binding, publisher, progress, limit) if binding else []
        bad = (*plan.source.bad, *unreadable)
        check_may_publish(limit, plan, publisher, bad)
        with clock.measure("publish"):
            progress.publishing()
            ledger = publisher.finish()
        left = publisher.n_rows_left + limit.n_retries_left if limit.is_reached else 0
        result = RunResult(plan, record, ledger, publisher.of_this_run, bad, binding, left)
        summary = summarize(context, result)
        progress.done(is_stopped=limit.is_reached)
    check_whole(limit, plan, publisher, bad, summary)
    return summary


def embed(
    context: RunContext,
    plan: Plan,
    binding: Binding,
    publisher: Publisher,
    progress: ProgressFile,
    limit: Limit,
) -> list[BadShard]:
    """Embed what is pending, in waves; returns the shards that turned out to be unreadable.

    Raises:
        SparkEmbedError: as `run`.
    """
    spark, config = context.spark, context.config
    jobs = JobGroups(spark)
    budget = ErrorBudget(spark, jobs, config.max_error_fraction, config.min_error_count)
    if config.max_cost is not None:
        limit.saw(list_executors(spark))
    waves = WaveContext(context, binding, publisher.record.run_id, jobs, budget, limit, publisher.add)
    retries = find_retries(context.output, publisher.ledger, binding) if config.retry_errors else []
    n_rows = sum(unit.n_rows for unit in plan.units)
    values = {**binding.settings, **committer_settings(spark, config)}
    with settings(spark, values), Progress(jobs, n_rows, progress.embedding), budget:
        unreadable = run_waves(waves, plan.units, publisher.next_wave, retries)
    if unreadable and not publisher.has_rows:
        bad = (*plan.source.bad, *unreadable)
        raise StorageError(
            f"none of {len(bad):,} shards can be read; the first, {bad[0].name}: {bad[0].reason}"
        )
    return unreadable


def summarize(context: RunContext, result: RunResult) -> RunSummary:
    """Write metadata.json, where it does not stand already as it would be; say how it went.

    Raises:
        StorageError: it cannot be written.
    """
    summary = None if result.markers or result.n_rows_left else read_summary(context, result)
    if summary:
        logger.info("%s", _nothing_done(result))
    else:
        summary = write_summary(context, result)
        extra = {"counts": summary.to_dict()["counts"], "timings_s": summary.timings_s}
        logger.info("stopped" if result.n_rows_left else "done", extra=extra)
    # All that can be read has its results: nobody asks again.
    if not result.n_rows_left and exists(context.output.answers):
        delete(context.output.answers)
    return summary


def check_may_publish(limit: Limit, plan: Plan, publisher: Publisher, bad: Sequence[BadShard]) -> None:
    """Let what is complete wait for what is not, where readers would find half of something.

    Raises:
        StoppedError, BadShardsError: it waits.
    """
    config = limit.config
    if limit.is_reached and not (publisher.may_publish_part and publisher.has_rows):
        raise stopped_error(limit, plan, publisher)
    if config.output_files and bad and config.fail_on_bad_shard:
        raise bad_shards_error(bad, "all others are done, and the one file (--output_files) waits for them")


def check_whole(
    limit: Limit, plan: Plan, publisher: Publisher, bad: Sequence[BadShard], summary: RunSummary
) -> None:
    """Tell by an error that not every row is there: exit code 0 says that each is.

    Raises:
        StoppedError, BadShardsError: rows are pending.
    """
    if limit.is_reached:
        raise stopped_error(limit, plan, publisher, summary.text())
    if bad and limit.config.fail_on_bad_shard:
        raise bad_shards_error(bad, "all others are done and published", summary.text())


def bad_shards_error(bad: Sequence[BadShard], others: str, summary: str = "") -> BadShardsError:
    """Return what to raise where shards cannot be read."""
    return BadShardsError(
        f"{len(bad):,} shards cannot be read; {others}; the first, {bad[0].name}: {bad[0].reason}; mend or "
        "remove them and start the same command again (--fail_on_bad_shard false: do without them)",
        summary,
    )


def stopped_error(limit: Limit, plan: Plan, publisher: Publisher, summary: str = "") -> StoppedError:
    """Return what to raise where a limit leaves rows for a later run."""
    pending, config = plan.pending, limit.config
    where = "complete and published" if summary else "complete, and will be published once all are"
    again = "the same command" + (" without --overwrite" if config.overwrite else "") + " goes on"
    if not (publisher.of_this_run or limit.spent):
        again += ", but give it more time, or shorter waves (--wave_s): this run has completed none"
    return StoppedError(
        f"stopped at {limit}: {pending.n_complete + publisher.n_rows:,} of {pending.n_rows:,} rows are "
        f"{where}; {again}",
        summary,
    )


def _nothing_done(result: RunResult) -> str:
    pending = result.plan.pending
    if not result.bad:
        return f"nothing to do: all {pending.n_shards:,} shards are complete"
    return (
        f"nothing more could be done: {pending.n_complete_shards:,} of {pending.n_shards:,} shards are "
        f"complete, {len(result.bad):,} cannot be read"
    )


@contextmanager
def as_known_failure(lock: OutputLock) -> Iterator[None]:
    """Tell a failure of Spark in a `with` block by what is wrong with storage or JVM, if anything is.

    Raises:
        StorageError: the output folder cannot be written to, or S3 failed.
        ResumeError: it is gone, or another run's.
        SparkLostError: the JVM has ended.
    """
    try:
        yield
    except (PySparkException, Py4JError, ConnectionError) as exc:
        lock.check()
        if what := what_is_lost(exc):
            raise SparkLostError(
                f"{what} has ended in the middle of the run, killed or out of memory; what is complete "
                "stays so: start the same command again, and it goes on"
            ) from exc
        if failure := explain_store_failure(exc):
            raise failure from exc
        raise


@contextmanager
def deleted_unless_begun(output: Output, lock: OutputLock, *, is_new: bool) -> Iterator[None]:
    """Delete an output folder that this run has made, if a `with` block leaves nothing of worth in it.

    Only who holds the lock may: another run may have begun in it.
    """
    try:
        yield
    finally:
        with suppress(StorageError, ResumeError), impatient():
            if is_new and not any(map(exists, (output.run_record, output.index, output.extras))):
                lock.check()
                delete(output.root)
