"""When the waves of a run ended, and so how fast it was from its first minute to its last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

_MAX_WAVES = 500
_MAX_POINTS = 60
_MIN_POINT_S = 2.0  # times are to the second


@dataclass(frozen=True)
class WaveTime:
    """A wave, or some that ended one after the other: until when, in how many seconds, how many rows."""

    finished_at: str
    embed_s: float
    rows: int


def in_order(waves: Iterable[WaveTime]) -> list[WaveTime]:
    """Return waves in the order of their ends; of very many, neighbours as one."""
    ordered = sorted(waves, key=lambda wave: wave.finished_at)
    n = max(1, -(-len(ordered) // _MAX_WAVES))
    return [_joined(ordered[i : i + n]) for i in range(0, len(ordered), n)]


def pace(waves: Sequence[WaveTime]) -> list[tuple[float, float]]:
    """Return how fast a run was: seconds since its first wave began, and rows a second around then.

    A wave's rows count as evenly spread over its seconds; waves at the same time add up.
    """
    ends = [_seconds(wave.finished_at) for wave in waves]
    if not waves:
        return []
    spans = [(end - max(wave.embed_s, 1e-3), end, wave.rows) for end, wave in zip(ends, waves, strict=True)]
    start = min(begin for begin, _, _ in spans)
    n_points = round(min(max((max(ends) - start) / _MIN_POINT_S, 1), _MAX_POINTS))
    width = (max(ends) - start) / n_points
    points = []
    for i in range(n_points):
        left, right = start + i * width, start + (i + 1) * width
        rows = sum(
            n * max(0.0, min(end, right) - max(begin, left)) / (end - begin) for begin, end, n in spans
        )
        points.append((round((i + 0.5) * width, 3), round(rows / width, 3)))
    return points


def _joined(waves: Sequence[WaveTime]) -> WaveTime:
    first, last = waves[0], waves[-1]
    between = _seconds(last.finished_at) - _seconds(first.finished_at)
    return WaveTime(last.finished_at, round(first.embed_s + between, 3), sum(wave.rows for wave in waves))


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
