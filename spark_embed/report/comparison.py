"""A comparison, the same images through steps that each mend one mistake, as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, zip_longest
from statistics import median

from spark_embed.report.blocks import Block, Chart, Page, Section, Table, Tiles, Words, facts
from spark_embed.report.charts import Change, areas, short, stacked, waterfall
from spark_embed.report.steps import Comparison, Step
from spark_embed.report.text import moment

_POINTS = 120
_IMAGES = 1000  # seconds are told for so many


def report_comparison(found: Comparison) -> Page:
    """Return a comparison as a report."""
    steps = found.steps
    first, last = steps[0], steps[-1]
    whole = last.gains_on(first)
    tiles = Tiles(
        [
            ("as fast as the baseline", _times(median(whole))),
            (f"images/s, {first.title}", short(first.speed)),
            (f"images/s, {last.title}", short(last.speed)),
            ("rounds", str(found.n_rounds)),
        ]
    )
    model, photos = found.model, found.input
    about = facts(
        {
            "machine": found.machine.text,
            "device": found.machine.device,
            "model": f"{model.name} ({model.kind})" if model.kind else model.name,
            "images": f"{photos.root}: {photos.n_rows:,} rows, {photos.n_bytes / 1e6:,.0f} MB",
            "started": found.started_at,
        }
    )
    return Page(
        "Slow against fast",
        f"{model.name} on {found.machine.text}, {moment(found.started_at)}",
        [
            Section("", [*_verdict(found.verdict), tiles]),
            Section("What each step gained", [_gains(steps), *_cpu(steps), _table(steps)]),
            Section("Where time and memory go", [*_stages(steps), *_memory(steps)]),
            Section("The steps", [_mistakes(steps)]),
            Section("What was measured, and on what", [about, Words(_HOW, "note")]),
        ],
    )


_HOW = (
    "All steps run the same images through the same model. Images/s are medians of the rounds; a gain is "
    "taken within a round, then the median is told, and in brackets the smallest and the largest. A step "
    "whose vectors differ from those of the last one is no comparison: the smallest cosine is in the table."
)


def _verdict(lines: Sequence[str]) -> list[Words]:
    return [Words(line, "plain" if i else "verdict") for i, line in enumerate(lines)]


def _gains(steps: Sequence[Step]) -> Chart:
    """Return what each cure gained: a step is called by its mistake, which the next one is without."""
    first = steps[0]
    rows = [_change("with all of them", first, first, f"{short(first.speed)}/s")]
    says = (
        f"Images a second, from {short(first.speed)} to {short(steps[-1].speed)}, on a logarithmic axis: "
        "equal lengths are equal factors. The whiskers are the rounds"
    )
    gains = [(median(step.gains_on(before)), before, step) for before, step in pairwise(steps)]
    for gain, before, step in gains:
        text = f"{short(step.speed)}/s {'▲' if gain >= 1 else '▼'} {_times(gain)}"
        rows.append(_change(f"− {before.title}", before, step, text))
    if gains:
        gain, before, _ = max(gains, key=lambda one: one[0])
        says += f". Most is gained without: {before.title}, {_times(gain)}"
    return Chart("Images/s without one mistake after the other", waterfall(rows), says)


def _change(label: str, before: Step, step: Step, text: str) -> Change:
    low, high = min(step.images_per_s), max(step.images_per_s)
    return Change(label, before.speed, step.speed, low, high, text)


def _table(steps: Sequence[Step]) -> Table:
    head = ["step", "images/s", "without it", "of the first", "peak MB", "JVM-Python MB"]
    head += ["model loads", "files", "cosine", "images"]
    has_gpu = any(step.gpu for step in steps)
    rows = []
    for step, after in zip_longest(steps, steps[1:]):
        row = [
            step.title,
            _spread(step.images_per_s, ""),
            _spread(after.gains_on(step), "×") if after else "",
            _times(median(step.gains_on(steps[0]))),
            *map(_known, (step.peak_mb, step.jvm_python_mb, step.n_model_loads, step.n_output_files)),
            "" if step.min_cosine is None else f"{step.min_cosine:.4f}",
            f"{step.n_images:,}",
        ]
        if has_gpu:
            gpu = step.gpu or {}
            row += [_known(gpu.get("utilization")), _known(gpu.get("memory_mb"))]
        rows.append(row)
    return Table([*head, *(["GPU %", "GPU MB"] if has_gpu else [])], rows)


def _cpu(steps: Sequence[Step]) -> list[Block]:
    rows = [(step.title, _per_images(step.cpu_s, step)) for step in steps if step.cpu_s]
    return _seconds("CPU seconds for 1,000 images, by process", rows)


def _stages(steps: Sequence[Step]) -> list[Block]:
    rows = [
        (step.title, {_stage(name): value for name, value in _per_images(step.stage_s, step).items()})
        for step in steps
        if step.stage_s
    ]
    return _seconds("Seconds of all threads for 1,000 images, by stage", rows)


def _seconds(title: str, rows: Sequence[tuple[str, dict[str, float]]]) -> list[Block]:
    """Return a chart of seconds by their kind; none without any."""
    if not rows:
        return []
    names = list(dict.fromkeys(name for _, parts in rows for name in parts))
    figures = Table(
        ["step", *names], [[label, *(_known(parts.get(name)) for name in names)] for label, parts in rows]
    )
    whole = [(sum(parts.values()), label) for label, parts in rows]
    (most, slowest), (least, fastest) = max(whole), min(whole)
    says = f"Most: {slowest}, {short(most)} s"
    if len(rows) > 1:
        says += f"; least: {fastest}, {short(least)} s"
    return [Chart(title, stacked(rows, "s"), says, figures)]


def _memory(steps: Sequence[Step]) -> list[Block]:
    rows = [(step.title, _thinned(step.memory_mb)) for step in steps if step.memory_mb]
    if not rows:
        return [Words("Memory over time was not measured.", "note")]
    peaks = [(max(value for _, value in points), label) for label, points in rows]
    says = (
        f"All processes of a step together. Most: {max(peaks)[1]}, {short(max(peaks)[0])} MB; "
        f"least: {min(peaks)[1]}, {short(min(peaks)[0])} MB"
    )
    return [Chart("Memory over time, MB", areas(rows, "MB"), says)]


def _mistakes(steps: Sequence[Step]) -> Table:
    rows = [(step.title, step.mistake, step.cure, step.program) for step in steps]
    return Table(["step", "what is slow in it", "what the next one does instead", "program"], rows, n_text=4)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return few of many points: of neighbours the highest."""
    n = -(-len(points) // _POINTS)
    return [max(points[i : i + n], key=lambda point: point[1]) for i in range(0, len(points), n)]


def _per_images(parts: Mapping[str, float], step: Step) -> dict[str, float]:
    return {name: value * _IMAGES / max(step.n_images, 1) for name, value in parts.items() if value}


def _stage(name: str) -> str:
    return name.removesuffix("_s").replace("_", " ")


def _known(value: float | None) -> str:
    return "" if value is None else short(value)


def _times(factor: float) -> str:
    return f"{factor:.2f}×" if factor < 10 else f"{factor:.1f}×"


def _spread(values: Sequence[float], unit: str) -> str:
    middle = f"{short(median(values))}{unit}"
    return f"{middle} ({short(min(values))}–{short(max(values))})" if len(values) > 1 else middle
