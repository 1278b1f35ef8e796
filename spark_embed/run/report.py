"""What a run and the state of its folder come to: metadata.json, written anew or as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spark_embed.datasets import BadShard
from spark_embed.inference.recipes import make_recipe
from spark_embed.models import Site
from spark_embed.models.registry import find_account
from spark_embed.output.cost import Cost, cost_of
from spark_embed.output.error_rows import read_error_rows
from spark_embed.output.executors import Skew, add_executors, count_hosts, named, worst
from spark_embed.output.folder import Output
from spark_embed.output.pace import WaveTime, in_order
from spark_embed.output.records import Counted, Ledger, Marker, RunRecord, now
from spark_embed.output.state import read_metadata
from spark_embed.output.summary import (
    Counts,
    ErrorExample,
    InputSummary,
    OutputSummary,
    Pending,
    RunSummary,
    S3Traffic,
    ThisRun,
    Throughput,
    Verdict,
)
from spark_embed.run.binding import Binding
from spark_embed.run.context import RunContext
from spark_embed.run.plan import Plan
from spark_embed.run.table_outputs import lacks_outputs, write_table_outputs
from spark_embed.run.verdict import Measured, judge
from spark_embed.spark.tasks import traffic_of_tasks
from spark_embed.storage import exists, traffic, write_json

_MAX_BAD_SHARDS = 20
_N_EXAMPLES = 3

_NOTHING_RUN = Verdict("nothing", "Nothing was left to embed")


@dataclass(frozen=True)
class RunResult:
    """All that a summary is made from.

    Attributes:
        markers: of the waves of this run.
        bad: shards that could not be read.
        binding: of this run; None if it had nothing to embed.
        n_rows_left: rows that a limit left for a later run.
    """

    plan: Plan
    record: RunRecord
    ledger: Ledger
    markers: Sequence[Marker]
    bad: Sequence[BadShard]
    binding: Binding | None
    n_rows_left: int = 0


def read_summary(context: RunContext, result: RunResult) -> RunSummary | None:
    """Return what metadata.json says, if that is still so; None if it must be written anew.

    Raises:
        ResumeError: it is broken.
    """
    summary = read_metadata(context.output)
    same = (
        summary is not None
        and summary.output.generation == result.ledger.generation
        and summary.output.run_id == result.record.run_id
        and summary.pending == _describe_pending(context, result)
        and not (result.plan.source.is_table and lacks_outputs(context))
    )
    return summary if same else None


def write_summary(context: RunContext, result: RunResult) -> RunSummary:
    """Write metadata.json; returns what it says.

    Raises:
        StorageError: it cannot be written.
    """
    config, output, clock = context.config, context.output, context.clock
    source, record, ledger = result.plan.source, result.record, result.ledger
    counted = add_up([marker.counted for marker in result.markers])
    embed_s = max(clock.timings_s.get("embed", 0.0), 1e-3)
    options = result.binding.options.batch_size if result.binding else 0
    pending, executors, timings_s = _describe_pending(context, result), counted.executors, clock.with_total()
    summary = RunSummary(
        status="incomplete" if pending.n_bad_shards or pending.n_rows_left else "complete",
        counts=_count(ledger),
        this_run=ThisRun(
            rows=counted.n_rows,
            embedded=counted.n_rows - counted.n_errors,
            errors=counted.n_errors,
            errors_by_code=counted.n_errors_by_code,
            n_waves=len(result.markers),
        ),
        pending=pending,
        error_examples=_examples(output, ledger),
        model=record.model,
        input=InputSummary(
            input_dir=config.input_dir,
            layout=source.layout,
            n_shards=source.n_shards,
            n_rows=source.n_rows,
            n_bytes=source.image_bytes,
            image_column=source.image_column,
            transport=result.binding.source.transport if result.binding else source.transport,
            not_used={kind: number for kind, (number, _) in source.not_used.kinds.items()},
        ),
        output=_describe_output(output.root, ledger, record),
        timings_s=timings_s,
        stage_s=counted.stage_s,
        throughput=Throughput(images_per_s=round(counted.n_rows / embed_s, 1)),
        parity=record.parity,
        verdict=_judge(result, counted, embed_s),
        n_tasks=counted.n_tasks,
        batch_size=min(options, counted.batch_limit or options),
        n_model_loads=counted.n_model_loads,
        versions=record.versions,
        config=config.model_dump(mode="json"),
        started_at=clock.started_at,
        finished_at=now(),
        traffic=_describe_traffic(counted, embed_s),
        n_executors=len(executors),
        executors=named(executors),
        n_rows_again=counted.n_rows_again,
        skew=worst(_skews(result.markers)),
        cost=_describe_cost(config.hourly_price, counted, timings_s["total"]),
        usage=_account(context, result.binding),
        waves=_waves(result.markers),
        report=write_table_outputs(context, ledger, record.model) if source.is_table else {},
    )
    write_json(output.metadata, summary.to_dict())
    return summary


def _examples(output: Output, ledger: Ledger) -> dict[str, list[ErrorExample]]:
    rows = read_error_rows(output, ledger.errors, ledger.n_errors_by_code, _N_EXAMPLES)
    return {
        code: [ErrorExample(row.image_id, row.error_detail) for row in found] for code, found in rows.items()
    }


def _waves(markers: Sequence[Marker]) -> list[WaveTime]:
    return in_order(WaveTime(one.finished_at, one.embed_s, one.counted.n_rows) for one in markers)


def _account(context: RunContext, binding: Binding | None) -> dict[str, Any]:
    """Return what the models of this run, and of interrupted ones before it, have used.

    A run that has nothing to embed may follow one that ended before it could say.
    """
    if binding:
        recipe = binding.preflight.recipe
    elif exists(context.output.answers):
        recipe = replace(make_recipe(context.config), site=Site(context.output.answers))
    else:
        return {}
    account = find_account(recipe.kind)
    return account(recipe) if account else {}


def _count(ledger: Ledger) -> Counts:
    return Counts(
        rows=ledger.n_embedded + ledger.n_errors,
        embedded=ledger.n_embedded,
        errors=ledger.n_errors,
        errors_by_code=ledger.n_errors_by_code,
        errors_by_result=ledger.n_errors_by_result,
    )


def _judge(result: RunResult, counted: Counted, embed_s: float) -> Verdict:
    binding = result.binding
    if binding is None or not result.markers:
        return _NOTHING_RUN
    device = result.record.model["device"]
    measured = Measured(counted.stage_s, counted.n_tasks, binding.n_slots, embed_s, device, binding.task_cpus)
    return judge(measured)


def _describe_traffic(counted: Counted, embed_s: float) -> S3Traffic | None:
    """Return what this run has asked of S3, None if nothing; Spark's own reading is not counted."""
    driver, tasks = traffic.take(), traffic_of_tasks.take()
    if not (counted.s3_requests or driver["s3_requests"] or tasks["s3_requests"]):
        return None
    return S3Traffic(
        worker_requests=counted.s3_requests,
        worker_bytes=counted.s3_bytes,
        worker_bytes_per_s=round(counted.s3_bytes / embed_s),
        requests_per_image=round(counted.s3_requests / max(counted.n_rows, 1), 3),
        task_requests=tasks["s3_requests"],
        task_bytes=tasks["s3_bytes"],
        driver_requests=driver["s3_requests"],
    )


def _describe_cost(hourly_price: float | None, counted: Counted, total_s: float) -> Cost | None:
    """Return what this run has cost, None without a price; one without a task, its driver's machine."""
    if hourly_price is None:
        return None
    return cost_of(max(1, count_hosts(counted.executors)), total_s, hourly_price, counted.n_rows)


def _skews(markers: Sequence[Marker]) -> Iterator[Skew]:
    for marker in markers:
        if (counted := marker.counted).n_tasks > 1:
            yield Skew(marker.wave, counted.longest_task_s, counted.median_task_s)


def _describe_output(root: str, ledger: Ledger, record: RunRecord) -> OutputSummary:
    return OutputSummary(
        output_dir=root,
        n_files=len(ledger.results),
        n_bytes=sum(file.n_bytes for file in ledger.results),
        generation=ledger.generation,
        run_id=record.run_id,
    )


def _describe_pending(context: RunContext, result: RunResult) -> Pending:
    plan = result.plan
    shown = {shard.name: shard.reason for shard in result.bad[:_MAX_BAD_SHARDS]}
    return Pending(
        n_bad_shards=len(result.bad),
        bad_shards=shown,
        n_gone_shards=0 if context.config.prune else len(plan.pending.gone),
        n_rows_left=result.n_rows_left,
    )


def add_up(parts: Sequence[Counted]) -> Counted:
    """Return what several waves hold together."""
    codes, stages = Counter[str](), Counter[str]()
    for part in parts:
        codes.update(part.n_errors_by_code)
        stages.update(part.stage_s)
    return Counted(
        n_rows=sum(part.n_rows for part in parts),
        n_errors_by_code=dict(sorted(codes.items())),
        n_tasks=sum(part.n_tasks for part in parts),
        n_model_loads=sum(part.n_model_loads for part in parts),
        stage_s={name: round(seconds, 3) for name, seconds in stages.items()},
        s3_requests=sum(part.s3_requests for part in parts),
        s3_bytes=sum(part.s3_bytes for part in parts),
        batch_limit=min((part.batch_limit for part in parts if part.batch_limit), default=None),
        executors=add_executors(one for part in parts for one in part.executors.items()),
        n_rows_again=sum(part.n_rows_again for part in parts),
    )
