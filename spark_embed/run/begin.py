"""Binds a run to what produces its vectors: to what it goes on with, or anew."""

from __future__ import annotations

import uuid
from typing import Any

from spark_embed.datasets.units import Unit
from spark_embed.output.fingerprint import check_fingerprint, make_fingerprint, model_options
from spark_embed.output.records import RunRecord
from spark_embed.output.resume import tidy
from spark_embed.output.state import write_run
from spark_embed.run.binding import Plan, make_plan
from spark_embed.run.context import RunContext
from spark_embed.run.plan import Work, data_fingerprint
from spark_embed.run.reach import check_reach
from spark_embed.run.retry import files_with_errors
from spark_embed.spark.settings import settings


def bind_run(context: RunContext, work: Work) -> tuple[RunRecord, Plan | None]:
    """Run the preflight where a model is needed, and write run.json; what earlier runs left over is deleted.

    No plan comes back if nothing is left to embed, and the options are those that the run was begun with.

    Raises:
        ModelError: the model cannot be used.
        ResumeError: it is not that of the run to go on with, or another run is at work by now.
        StorageError: run.json cannot be written, or the workers do not reach the output.
    """
    old = work.standing.record
    config = context.config
    if old and old.options == model_options(config) and not work.units and not _wants_retries(context, work):
        context.check()
        tidy(context.output, work.standing)
        return old, None
    plan = make_plan(context.spark, config, work.source, work.pending.n_left, work.dtype)
    if old:
        check_model(context, work, old, plan)
    check_reach(context.spark, context.output.root)
    record = _make_record(context, work, plan)
    context.check()  # the preflight may have taken long: what another run has made since is not a leftover
    write_run(context.output, record)
    tidy(context.output, work.standing)
    return record, plan


def check_model(context: RunContext, work: Work, record: RunRecord, plan: Plan) -> None:
    """Compare the model of a plan with that of a run.

    Raises:
        ResumeError: it is another; the text says in what.
    """
    fingerprint = _fingerprint(context, work, plan)
    check_fingerprint(context.output.root, record.fingerprint, fingerprint)


def _fingerprint(context: RunContext, work: Work, plan: Plan) -> dict[str, Any]:
    preflight = plan.preflight
    data = data_fingerprint(context.config, work.source)
    return make_fingerprint(data, preflight.model, preflight.recipe.gives, preflight.codes)


def _wants_retries(context: RunContext, work: Work) -> bool:
    ledger = work.standing.ledger
    return context.config.retry_errors and ledger is not None and bool(files_with_errors(ledger))


def _make_record(context: RunContext, work: Work, plan: Plan) -> RunRecord:
    preflight, old = plan.preflight, work.standing.record
    with settings(context.spark, plan.settings):
        no_row = work.source.table(context.spark, [Unit(work.source.shards[0], 0, 0)])
        schema = plan.embedded(no_row).schema
    return RunRecord(
        run_id=old.run_id if old else uuid.uuid4().hex,
        started_at=old.started_at if old else context.clock.started_at,
        options=model_options(context.config),
        fingerprint=_fingerprint(context, work, plan),
        table_schema=old.table_schema if old else schema.jsonValue(),
        model=preflight.model,
        parity=preflight.parity,
        versions=preflight.versions,
        output_files=context.config.output_files,
    )
