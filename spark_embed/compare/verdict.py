"""The figures of a comparison -> its table, for a terminal and for Markdown, and sentences."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

_N_DEAREST = 3
_SEEN_FROM = 1.05  # a gain below it is no more than what two runs differ by
_MUCH_MEMORY = 1.5

Steps = Sequence[Mapping[str, Any]]


def gains(steps: Steps) -> list[list[float]]:
    """Return by how much each step's successor is faster, round by round; of the last nothing."""
    return [
        [after / before for before, after in zip(one["images_per_s"], other["images_per_s"], strict=True)]
        for one, other in pairwise(steps)
    ]


def judge(result: Mapping[str, Any]) -> list[str]:
    """Return what the figures say, as sentences."""
    steps: Steps = result["steps"]
    if len(steps) < 2:
        return [f"{steps[0]['title']}: {_rate(steps[0]):.1f} images/s; there is nothing to compare it with."]
    first, last = steps[0], steps[-1]
    by_round = [one / other for one, other in zip(last["images_per_s"], first["images_per_s"], strict=True)]
    said = [
        f"The job does {_rate(last):.1f} images/s where the first step does {_rate(first):.1f}: "
        f"{_spread(by_round)} times as many, on {result['machine']['text']} ({result['machine']['device']}), "
        f"with {result['model']['name']}."
    ]
    by_step = {step["title"]: found for step, found in zip(steps, gains(steps), strict=False)}
    seen = {title: found for title, found in by_step.items() if min(found) > 1 and _mid(found) >= _SEEN_FROM}
    if dearest := sorted(seen, key=lambda title: -_mid(seen[title]))[:_N_DEAREST]:
        named = "; ".join(f"{title} ({_spread(seen[title])} times as fast without)" for title in dearest)
        said.append(f"What costs most here: {named}.")
    if unseen := [title for title in by_step if title not in seen]:
        said.append(f"No cost in speed that can be told from noise here: {'; '.join(unseen)}.")
    said += [_about_memory(one, other) for one, other in pairwise(steps)]
    if first["jvm_python_mb"] and last["jvm_python_mb"] is not None:
        each = [step["jvm_python_mb"] * 1000 / step["n_images"] for step in (first, last)]
        said.append(f"Between JVM and Python went {each[0]:,.0f} KB an image, and of the job {each[1]:,.1f}.")
    slowest = min(step["min_cosine"] or 0 for step in steps)
    said.append(f"All steps have the same vectors: the smallest cosine with the job's is {slowest:.5f}.")
    return [sentence for sentence in said if sentence]


def table(result: Mapping[str, Any]) -> str:
    """Return a row for each step, as Markdown that is aligned for a terminal, too."""
    heads = ["step", "images/s", "gain by its cure", "CPU s: driver, JVM, Python", "MB", "JVM-Python MB"]
    rows = [[*heads, "loads", "files", "min cosine"]]
    for step, found in zip(result["steps"], [*gains(result["steps"]), []], strict=True):
        cpu = " ".join(f"{step['cpu_s'][kind]:.1f}" for kind in ("driver", "jvm", "python"))
        rows.append(
            [
                f"{step['title']} ({step['n_images']})",
                _spread(step["images_per_s"], 1),
                _spread(found) if found else "",
                cpu,
                f"{step['peak_mb']:,.0f}",
                "" if step["jvm_python_mb"] is None else f"{step['jvm_python_mb']:,.1f}",
                str(step["n_model_loads"]),
                str(step["n_output_files"]),
                f"{step['min_cosine'] or 0:.5f}",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def _about_memory(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    if one["n_images"] != other["n_images"] or one["peak_mb"] < _MUCH_MEMORY * other["peak_mb"]:
        return ""
    return (
        f"{one['title']}: costs memory, {one['peak_mb']:,.0f} MB at most where {other['peak_mb']:,.0f} do "
        "without it."
    )


def _rate(step: Mapping[str, Any]) -> float:
    return _mid(step["images_per_s"])


def _mid(values: Sequence[float]) -> float:
    return statistics.median(values)


def _spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median, and the smallest and largest if there are several."""
    middle = f"{_mid(values):,.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"
