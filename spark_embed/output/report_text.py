"""BATCH INFERENCE REPORT: the figures of a table's predictions as a block of text; computes none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

REPORT_TITLE = "BATCH INFERENCE REPORT"

_LINE = "=" * 60
_SHOWN_CLASSES = 12


def report_text(report: Mapping[str, Any]) -> str:
    """Return a report, as JSON values, as a block of text for a person."""
    n, score = report["predicted"], report["score"]
    lines = [
        _LINE,
        REPORT_TITLE,
        _LINE,
        f"generated     {report['generated_at']}",
        f"input         {report['input']}",
        f"output        {report['output']}",
        f"model         {report['model']}",
        f"rows          {report['rows']:,}",
        f"predicted     {n:,}",
        f"errors        {report['errors']:,}",
        *(f"  {code:<22}{number:>14,}" for code, number in report["errors_by_code"].items()),
    ]
    if report["positives"] is not None:
        lines += [
            _share(f"positive ({_class(report, 1)})", report["positives"], n)
            + f"   score >= {report['threshold']:g}",
            _share(f"negative ({_class(report, 0)})", report["negatives"], n),
        ]
    else:
        lines += [_share(name, number, n) for name, number in _largest(report["classes"])]
    if score:
        lines += [f"score {name:<8}{score[name]:.6f}" for name in ("mean", "std", "min", "max")]
        lines += [_share(f"  {band['band']}", band["count"], n) for band in report["bands"]]
    return "\n".join([*lines, _LINE])


def _class(report: Mapping[str, Any], place: int) -> str:
    return str(list(report["classes"])[place])


def _largest(classes: Mapping[str, int]) -> Sequence[tuple[str, int]]:
    return sorted(classes.items(), key=lambda item: -item[1])[:_SHOWN_CLASSES]


def _share(what: str, number: int, whole: int) -> str:
    return f"{what:<24}{number:>14,}  {100 * number / max(whole, 1):6.2f} %"
