"""A run, as what its output folder says of it, as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spark_embed.output.cost import dollars
from spark_embed.output.pace import pace
from spark_embed.output.status import duration
from spark_embed.output.summary import RunSummary, describe_model, describe_parity
from spark_embed.report.blocks import Block, Chart, Page, Section, Table, Tiles, Words, facts
from spark_embed.report.charts import Bar, areas, bars, histogram, short
from spark_embed.report.read_run import Distribution, RunFacts
from spark_embed.report.text import moment

_SHOWN_CLASSES = 12
_SHOWN_EXECUTORS = 20
_MIN_PACE_POINTS = 4


def report_run(found: RunFacts) -> Page:
    """Return a run as a report."""
    status, summary = found.status, found.summary
    sections = [
        Section("", _top(found)),
        Section("Rows without a result", _errors(found)),
        Section(
            "What the model said", [block for one in found.distributions for block in _distribution(one)]
        ),
        Section("How fast", _speed(found)),
        Section("Where it ran", _executors(summary) if summary else []),
        Section("Model and parity", _model(found)),
        Section("Input, output and versions", _about(summary) if summary else []),
    ]
    when = moment(summary.finished_at if summary else status.updated_at or "")
    return Page(
        f"Run: {status.output_dir}",
        f"{status.model or 'no model yet'}, {when}; written {moment(found.generated_at)}",
        [section for section in sections if section.blocks],
    )


def _top(found: RunFacts) -> list[Block]:
    status, summary = found.status, found.summary
    n_errors = sum(status.errors_by_code.values())
    share = f" ({100 * n_errors / status.n_complete:.2g} %)" if n_errors and status.n_complete else ""
    tiles = [("rows complete", f"{status.n_complete:,}"), (f"without a result{share}", f"{n_errors:,}")]
    if status.n_rows and status.n_rows != status.n_complete:
        tiles.append(("rows in all", f"{status.n_rows:,}"))
    speed = summary.throughput.images_per_s if summary else status.images_per_s
    if speed is not None:
        tiles.append((f"{_what(summary)}/s while embedding", short(speed)))
    words = [Words(status.line(), "plain")]
    if summary:
        tiles.append(("the whole run", duration(summary.timings_s.get("total", 0.0))))
        if summary.cost:
            tiles.append(("USD, this run", dollars(summary.cost.cost)))
        words = [Words(summary.verdict.text, "verdict")]
        if status.state != "complete":
            words.append(Words(f"State: {status.line()}"))
        if n_left := summary.pending.n_rows_left:
            words.append(Words(f"{n_left:,} rows are left: the same command goes on."))
        words += [
            Words(f"Shard {name} is left out: {why}") for name, why in summary.pending.bad_shards.items()
        ]
    return [Tiles(tiles), *words]


def _errors(found: RunFacts) -> list[Block]:
    by_code = found.status.errors_by_code
    if not by_code:
        return [Words("None: every row has a result.")] if found.status.n_complete else []
    ordered = sorted(by_code.items(), key=lambda item: -item[1])
    whole = max(found.status.n_complete, 1)
    says = f"{sum(by_code.values()):,} of {found.status.n_complete:,} rows; most often {ordered[0][0]}"
    rows = [Bar(code, n, f"{n:,}  ({100 * n / whole:.2g} %)") for code, n in ordered]
    blocks: list[Block] = [_bars("Rows by code", rows, says)]
    by_result = found.summary.counts.errors_by_result if found.summary else {}
    if by_result:
        lacking = [(name, code, f"{n:,}") for name, codes in by_result.items() for code, n in codes.items()]
        blocks.append(Table(["result", "code", "rows"], lacking, n_text=2))
    examples = [
        (
            example.row.image_id,
            example.picture or "",
            code,
            example.row.error_detail or "",
            f"{example.row.shard}#{example.row.shard_row}",
        )
        for code, _ in ordered
        for example in found.examples.get(code, ())
    ]
    if examples:
        blocks.append(Table(["image_id", "", "code", "what is wrong", "shard and row"], examples, n_text=5))
    return blocks


def _distribution(one: Distribution) -> list[Block]:
    scores, blocks = one.scores, list[Block]()
    if scores.classes:
        n = sum(scores.classes.values())
        shown = scores.classes.most_common(_SHOWN_CLASSES)
        rest = len(scores.classes) - len(shown)
        says = f"{len(scores.classes):,} different values in {n:,} rows; most often {shown[0][0]}" + (
            f". {rest:,} rarer ones are not shown" if rest else ""
        )
        rows = [Bar(name, count, f"{count:,}  ({100 * count / n:.3g} %)") for name, count in shown]
        blocks.append(_bars(f"Rows by {one.columns.classes}", rows, says))
    if scores.n:
        says = (
            f"{scores.n:,} rows: mean {scores.mean:.4g}, standard deviation {scores.std:.4g}, "
            f"from {scores.min:.4g} to {scores.max:.4g}"
        )
        width = (scores.high - scores.low) / len(scores.bins)
        bounds = [scores.low + i * width for i in range(len(scores.bins) + 1)]
        figures = Table(
            ["from", "to", "rows"],
            [
                (f"{low:.4g}", f"{high:.4g}", f"{n:,}")
                for low, high, n in zip(bounds, bounds[1:], scores.bins, strict=False)
            ],
        )
        chart = histogram(scores.bins, scores.low, scores.high)
        blocks.append(Chart(f"Distribution of {one.columns.score}", chart, says, figures))
    return blocks


def _speed(found: RunFacts) -> list[Block]:
    summary, blocks = found.summary, list[Block]()
    what, points = _what(summary), pace(found.waves)
    if len(found.waves) > 1 and len(points) >= _MIN_PACE_POINTS:
        speeds = [speed for _, speed in points]
        says = (
            f"{len(found.waves):,} waves in {duration(points[-1][0] + points[0][0])}: between "
            f"{short(min(speeds))} and {short(max(speeds))} {what}/s; within a wave the pace is taken as even"
        )
        blocks.append(Chart("Throughput over time", areas([(f"{what}/s", points)], "/s"), says))
    if summary is None:
        return blocks
    clock = {name: value for name, value in summary.timings_s.items() if name != "total"}
    for title, seconds, says in (
        ("The clock", clock, "Seconds of the whole run"),
        ("Stages", summary.stage_s, "Seconds of all tasks and threads, added up"),
    ):
        rows = [Bar(_stage(name), value, f"{short(value)} s") for name, value in seconds.items() if value]
        if rows:
            blocks.append(_bars(title, rows, f"{says}; most: {max(rows, key=lambda row: row.value).label}"))
    if len(found.waves) == 1 and summary.timings_s.get("embed"):
        blocks.append(Words("One wave: how fast it was from minute to minute is not kept.", "note"))
    return blocks


def _executors(summary: RunSummary) -> list[Block]:
    if summary.n_executors < 2:
        return []
    executors = list(summary.executors.items())
    rows = [
        (
            name,
            ", ".join(one.devices),
            *(f"{number:,}" for number in (one.n_rows, one.n_tasks, one.n_model_loads)),
            short(one.busy_s),
        )
        for name, one in executors[:_SHOWN_EXECUTORS]
    ]
    more = len(executors) - len(rows)
    skew = summary.skew
    said = [f"{summary.n_executors:,} executors" + (f", {more:,} of them not shown" if more else "")]
    if summary.n_rows_again:
        said.append(f"{summary.n_rows_again:,} rows embedded again, because a task or its executor failed")
    if skew:
        said.append(f"longest task {skew.longest_task_s:.1f} s, median {skew.median_task_s:.1f} s")
    head = ["executor", "devices", "rows", "tasks", "model loads", "busy s"]
    return [Words("; ".join(said)), Table(head, rows, n_text=2)]


def _model(found: RunFacts) -> list[Block]:
    blocks: list[Block] = []
    if found.summary:
        blocks.append(Words(describe_model(found.summary.model)))
    if found.parity:
        blocks.append(Words(f"Parity: {describe_parity(dict(found.parity))}."))
    if found.fingerprint:
        blocks.append(
            Words(
                "The fingerprint: what decides what a result is. Another run goes on only with the same.",
                "note",
            )
        )
        blocks.append(facts({name: _value(value) for name, value in found.fingerprint.items()}))
    return blocks


def _about(summary: RunSummary) -> list[Block]:
    given = summary.input
    values = {
        "input": f"{given.input_dir}: {given.n_rows:,} rows in {given.n_shards:,} shards, {given.layout}",
        "not used": ", ".join(f"{n:,} {kind}" for kind, n in given.not_used.items()),
        "output": f"{summary.output.n_files:,} files, {summary.output.n_bytes / 1e6:,.1f} MB",
        "started, finished": f"{moment(summary.started_at)}, {moment(summary.finished_at)}",
        "batch size": str(summary.batch_size),
        "tasks": f"{summary.n_tasks:,} with rows; the model was loaded {summary.n_model_loads:,} times",
        "cost": summary.cost.text() if summary.cost else "",
        "usage": ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in summary.usage.items()),
        "versions": ", ".join(f"{name} {version}" for name, version in summary.versions.items()),
    }
    return [facts(values)]


def _bars(title: str, rows: Sequence[Bar], says: str) -> Chart:
    return Chart(title, bars(rows), says, Table(("", ""), [(row.label, row.text) for row in rows]))


def _what(summary: RunSummary | None) -> str:
    return "rows" if summary and summary.report else "images"


def _stage(name: str) -> str:
    return name.removesuffix("_s").replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_value, value))
    return "none" if value is None else str(value)
