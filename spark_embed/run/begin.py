"""Binds a run to what produces its vectors: to what it goes on with, or anew."""

from __future__ import annotations

import json
import os
import uuid
from typing import Any

from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.datasets.units import Unit
from spark_embed.errors import StorageError
from spark_embed.inference.recipes import make_recipe
from spark_embed.models.registry import find_check, find_compared
from spark_embed.output.fingerprint import check_fingerprint, make_fingerprint, model_options
from spark_embed.output.folder import Output
from spark_embed.output.records import RunRecord
from spark_embed.output.resume import tidy
from spark_embed.output.state import write_run
from spark_embed.run.binding import Binding, Known, make_binding
from spark_embed.run.context import RunContext
from spark_embed.run.plan import Plan, data_fingerprint
from spark_embed.run.retry import files_with_errors
from spark_embed.run.table_wave import table_schema
from spark_embed.spark.context import is_local
from spark_embed.spark.session import Session, are_workers_elsewhere
from spark_embed.spark.settings import settings
from spark_embed.spark.tasks import run_tasks
from spark_embed.storage import exists, impatient, is_s3, list_names


def check_model_files(spark: SparkSession | Session, config: Config, output: Output) -> None:
    """Look at the model of a run that begins, before Spark starts for it; one that goes on may need none.

    Raises:
        ModelError: its folder is on this machine and cannot be used, or is nowhere that the workers could be.
    """
    if exists(output.run_record):
        return
    recipe = make_recipe(config)
    is_lacking = any(os.path.isabs(one) and not os.path.exists(one) for one in config.model_directories)
    if is_lacking and are_workers_elsewhere(spark):
        return
    find_check(recipe.kind)(recipe)


def bind_run(context: RunContext, plan: Plan) -> tuple[RunRecord, Binding | None]:
    """Run the preflight where a model is needed, and write run.json; what earlier runs left over is deleted.

    No binding comes back if nothing is left to embed, and the options are those that the run was begun with.

    Raises:
        ModelError: the model cannot be used.
        ResumeError: it is not that of the run to go on with, or another run is at work by now.
        StorageError: run.json cannot be written, or the workers do not reach the output.
    """
    old = plan.run_state.record
    config = context.config
    options = _options(config)  # before the model is loaded: what changes later is seen by the next run
    if old and old.options == options and not plan.units and not _wants_retries(context, plan):
        context.check()
        tidy(context.output, plan.run_state)
        return old, None
    known = Known(plan.dtype, plan.jpeg_scaling, context.output.answers)
    binding = make_binding(context.spark, config, plan.source, plan.pending.n_left, known)
    if old:
        check_model(context, plan, old, binding)
    check_workers_reach_output(context.spark, context.output.root)
    record = _make_record(context, plan, binding, options)
    context.check()  # the preflight may have taken long: what another run has made since is not a leftover
    write_run(context.output, record)
    tidy(context.output, plan.run_state)
    return record, binding


def check_model(context: RunContext, plan: Plan, record: RunRecord, binding: Binding) -> None:
    """Compare the model of a binding with that of a run.

    Raises:
        ResumeError: it is another; the text says in what.
    """
    # With what only the old one has: another kind of model may say less of itself.
    fingerprint = {**dict.fromkeys(record.fingerprint), **_fingerprint(context, plan, binding)}
    check_fingerprint(context.output.root, record.fingerprint, fingerprint)


def _fingerprint(context: RunContext, plan: Plan, binding: Binding) -> dict[str, Any]:
    preflight = binding.preflight
    data = data_fingerprint(context.config, plan.source)
    return make_fingerprint(data, preflight.model, preflight.recipe.gives, preflight.codes)


def _wants_retries(context: RunContext, plan: Plan) -> bool:
    ledger = plan.run_state.ledger
    return context.config.retry_errors and ledger is not None and bool(files_with_errors(ledger))


def _make_record(context: RunContext, plan: Plan, binding: Binding, options: dict[str, Any]) -> RunRecord:
    preflight, old = binding.preflight, plan.run_state.record
    if plan.source.is_table:
        schema = table_schema(plan.source, preflight.recipe)
    else:
        with settings(context.spark, binding.settings):
            no_row = plan.source.table(context.spark, [Unit(plan.source.shards[0], 0, 0)])
            schema = binding.embedded(no_row).schema
    return RunRecord(
        run_id=old.run_id if old else uuid.uuid4().hex,
        started_at=old.started_at if old else context.clock.started_at,
        options=options,
        fingerprint=_fingerprint(context, plan, binding),
        table_schema=old.table_schema if old else schema.jsonValue(),
        model=preflight.model,
        parity=preflight.parity,
        versions=preflight.versions,
        output_files=context.config.output_files,
    )


def _options(config: Config) -> dict[str, Any]:
    """Return the options that decide what a result is: of files that they name, what those say now."""
    compared = find_compared(make_recipe(config).kind, config)
    plain: dict[str, Any] = json.loads(json.dumps({**model_options(config), **compared}))
    return plain


def check_workers_reach_output(spark: SparkSession, root: str) -> None:
    """Let a worker look into an output folder on S3; on this machine workers have the driver's own means.

    Raises:
        StorageError: it cannot, be it for want of credentials.
    """
    if is_s3(root) and not is_local(spark):
        look_from_worker(spark, root)


def look_from_worker(spark: SparkSession, root: str) -> None:
    """Let a worker list a folder.

    Raises:
        StorageError: it cannot.
    """
    try:
        run_tasks(spark, _look, [root])
    except StorageError as exc:
        raise StorageError(
            f"--output_dir {root}: the driver reaches it, but not the workers, who publish the files: {exc}; "
            "give their machines a role, or credentials in their environment"
        ) from exc


def _look(root: str) -> None:
    with impatient():
        list_names(root)
