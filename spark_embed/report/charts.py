"""Numbers -> charts as SVG text, in one width for phone, desktop and paper; knows not what they mean.

A label stands above its bar, not beside it, so that it is readable at 340 pixels. Colours are classes of
style.css (s0, s1, ...); no chart is to be read by its colours alone.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from spark_embed.report.text import escape

WIDTH = 400
N_COLOURS = 8
_ROW, _BAR = 34, 12
_LABEL_CHARS = 38
_PLOT = 96  # height
_MIN_TICKS = 4

Points = Sequence[tuple[float, float]]
Row = TypeVar("Row")


class Bar(NamedTuple):
    """A bar's name, its length, and what is said of it at its end."""

    label: str
    value: float
    text: str


class Change(NamedTuple):
    """A step of a waterfall: from one value to another, which was between `low` and `high` in the rounds."""

    label: str
    before: float
    after: float
    low: float
    high: float
    text: str


def bars(rows: Sequence[Bar]) -> str:
    """Return horizontal bars, all from zero."""
    most = max((row.value for row in rows), default=0) or 1
    body = [
        _row_text(y, row.label, row.text) + _rect(0, y + 18, WIDTH * row.value / most, "s0")
        for y, row in _placed(rows, _ROW)
    ]
    return _svg(len(rows) * _ROW, body)


def stacked(rows: Sequence[tuple[str, Mapping[str, float]]], unit: str) -> str:
    """Return a bar of parts for each row, all in one scale, with a legend: name and its parts by name."""
    names = list(dict.fromkeys(name for _, parts in rows for name in parts))
    most = max((sum(parts.values()) for _, parts in rows), default=0) or 1
    body, top = _legend(names)
    for y, (label, parts) in _placed(rows, _ROW, top):
        body.append(_row_text(y, label, f"{short(sum(parts.values()))} {unit}"))
        x = 0.0
        for name, value in parts.items():
            body.append(
                _rect(
                    x, y + 18, WIDTH * value / most, f"s{names.index(name) % N_COLOURS}", f"{name} {value:g}"
                )
            )
            x += WIDTH * value / most
    return _svg(top + len(rows) * _ROW, body)


def waterfall(rows: Sequence[Change]) -> str:
    """Return what each step changed, on a logarithmic axis: equal lengths are equal factors."""
    values = [value for row in rows for value in (row.before, row.after, row.low, row.high)]
    low, high = math.log(min(values, default=1) / 1.1), math.log(max(values, default=1) * 1.1)

    def place(value: float) -> float:
        return WIDTH * (math.log(value) - low) / (high - low)

    bottom = len(rows) * _ROW + 4
    body = [
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom}"/>'
        f'<text class="axis" x="{x:.1f}" y="{bottom + 12}" text-anchor="middle">{tick:g}</text>'
        for tick in _ticks(math.exp(low), math.exp(high))
        if 12 < (x := place(tick)) < WIDTH - 12
    ]
    for y, row in _placed(rows, _ROW):
        body.append(_row_text(y, row.label, row.text))
        ends = sorted((place(row.before), place(row.after)))
        body.append(
            _rect(ends[0], y + 18, max(ends[1] - ends[0], 2), "s0" if row.after >= row.before else "s5")
        )
        middle, left, right = y + 18 + _BAR / 2, place(row.low), place(row.high)
        body.append(
            f'<path class="spread" d="M{left:.1f} {middle}H{right:.1f}'
            f'M{left:.1f} {middle - 4}v8M{right:.1f} {middle - 4}v8"/>'
        )
    return _svg(bottom + 16, body)


def areas(rows: Sequence[tuple[str, Points]], unit: str) -> str:
    """Return a small plot of values over seconds for each name, all in the same two scales."""
    most = max((value for _, points in rows for _, value in points), default=0) or 1
    last = max((second for _, points in rows for second, _ in points), default=0) or 1
    plot = _PLOT if len(rows) == 1 else _PLOT / 3
    body = []
    for y, (label, points) in _placed(rows, plot + 28):
        peak = max((value for _, value in points), default=0)
        body.append(_row_text(y, label, f"at most {short(peak)} {unit}"))
        floor = y + 20 + plot
        line = " ".join(f"{WIDTH * x / last:.1f},{floor - plot * value / most:.1f}" for x, value in points)
        if points:
            first, end = WIDTH * points[0][0] / last, WIDTH * points[-1][0] / last
            body.append(f'<polygon class="area" points="{first:.1f},{floor} {line} {end:.1f},{floor}"/>')
            body.append(f'<polyline class="line" points="{line}"/>')
        body.append(f'<line class="grid" x1="0" x2="{WIDTH}" y1="{floor}" y2="{floor}"/>')
    height = len(rows) * (plot + 28)
    body.append(f'<text class="axis" x="0" y="{height + 10}">0 s</text>')
    body.append(f'<text class="axis" x="{WIDTH}" y="{height + 10}" text-anchor="end">{short(last)} s</text>')
    return _svg(height + 16, body)


def histogram(counts: Sequence[int], low: float, high: float) -> str:
    """Return a column for each of equal parts of a range."""
    most, width = max(counts, default=0) or 1, WIDTH / max(len(counts), 1)
    body = [
        f'<rect class="s0" x="{i * width + 1:.1f}" y="{12 + _PLOT * (1 - n / most):.1f}" '
        f'width="{width - 2:.1f}" height="{_PLOT * n / most:.1f}"><title>{n:,}</title></rect>'
        for i, n in enumerate(counts)
    ]
    floor = 12 + _PLOT
    body.append(f'<text class="axis" x="0" y="9">{most:,} rows</text>')
    body.append(f'<line class="grid" x1="0" x2="{WIDTH}" y1="{floor}" y2="{floor}"/>')
    for x, anchor, value in (
        (0, "start", low),
        (WIDTH / 2, "middle", (low + high) / 2),
        (WIDTH, "end", high),
    ):
        body.append(f'<text class="axis" x="{x}" y="{floor + 14}" text-anchor="{anchor}">{value:.3g}</text>')
    return _svg(floor + 18, body)


def short(number: float) -> str:
    """Return a number to three places, thousands with commas."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _placed(rows: Sequence[Row], height: float, top: float = 0) -> list[tuple[float, Row]]:
    return [(top + i * height, row) for i, row in enumerate(rows)]


def _legend(names: Sequence[str]) -> tuple[list[str], float]:
    """Return the legend, as many names in a line as go, and its height."""
    body, x, y = [], 0.0, 0.0
    for number, name in enumerate(names):
        width = 22 + 7 * len(name)
        if x + width > WIDTH:
            x, y = 0.0, y + 18
        body.append(
            f'<rect class="s{number % N_COLOURS}" x="{x:.0f}" y="{y + 2:.0f}" width="10" height="10"/>'
            f'<text class="axis" x="{x + 14:.0f}" y="{y + 11:.0f}">{escape(name)}</text>'
        )
        x += width
    return body, y + 24


def _row_text(y: float, label: str, text: str) -> str:
    return (
        f'<text x="0" y="{y + 13:.1f}">{escape(_cut(label, _LABEL_CHARS))}</text>'
        f'<text class="end" x="{WIDTH}" y="{y + 13:.1f}" text-anchor="end">{escape(text)}</text>'
    )


def _rect(x: float, y: float, width: float, colour: str, says: str = "") -> str:
    title = f"<title>{escape(says)}</title>" if says else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{_BAR}"'
    return f'<rect class="{colour}" {place}>{title}</rect>'


def _svg(height: float, body: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg>'


def _ticks(low: float, high: float) -> list[float]:
    """Return tens between two numbers; where there are few, 2 and 5 of them, too, or all."""
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5), range(1, 10)):
        ticks = [step * 10.0**ten for ten in tens for step in steps if low <= step * 10.0**ten <= high]
        if len(ticks) >= _MIN_TICKS:
            break
    return ticks


def _cut(text: str, n_chars: int) -> str:
    """Return a text no wider than so many letters; Chinese and emoji are as wide as two."""
    width = 0
    for place, char in enumerate(text):
        width += 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if width > n_chars:
            return text[:place].rstrip() + "…"
    return text
