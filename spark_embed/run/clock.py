"""The seconds of a run, by name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from spark_embed.output.records import now


class Clock:
    """Names and adds up the seconds of a run, from its making on."""

    def __init__(self) -> None:
        self.started_at = now()
        self.timings_s: dict[str, float] = {}
        self._measured_s = 0.0
        self._start = time.perf_counter()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add how long the `with` block takes, even if it fails, to the seconds of this name.

        What is measured inside it by another name counts for that.
        """
        started, measured_before = time.perf_counter(), self._measured_s
        try:
            yield
        finally:
            inside_s = self._measured_s - measured_before
            seconds = time.perf_counter() - started - inside_s
            self._measured_s += seconds
            self.timings_s[name] = round(self.timings_s.get(name, 0.0) + seconds, 3)

    @property
    def total_s(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._start

    def with_total(self) -> dict[str, float]:
        """Return the timings, and the seconds since the clock was made as "total"."""
        return {**self.timings_s, "total": round(self.total_s, 3)}
