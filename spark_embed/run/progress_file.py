"""progress.json: how far the run is that is at work, for whoever looks at the folder (spark-embed status)."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from typing import Literal

from spark_embed.errors import StorageError
from spark_embed.output.records import ProgressRecord
from spark_embed.output.state import write_progress
from spark_embed.run.context import RunContext
from spark_embed.run.plan import Plan
from spark_embed.run.publisher import Publisher
from spark_embed.storage import impatient

Phase = Literal["embed", "publish", "done", "stopped"]


class ProgressFile:
    """The file, rewritten as the run goes on. Where it cannot be written the run goes on all the same."""

    def __init__(self, context: RunContext, plan: Plan, publisher: Publisher) -> None:
        self._context, self._plan, self._publisher = context, plan, publisher
        self._started = time.monotonic()

    def embedding(self, n_done: int) -> None:
        """Say that so many rows have been embedded by now, those of unfinished waves included."""
        self._write("embed", n_done)

    def publishing(self) -> None:
        """Say that all waves are over."""
        self._write("publish", self._publisher.n_rows)

    def done(self, *, is_stopped: bool = False) -> None:
        """Say that the run has ended as it should, be it at its limit."""
        self._write("stopped" if is_stopped else "done", self._publisher.n_rows)

    def _write(self, phase: Phase, n_done: int) -> None:
        publisher, pending = self._publisher, self._plan.pending
        codes = Counter(publisher.ledger.n_errors_by_code if publisher.ledger else {})
        for marker in publisher.markers:
            codes.update(marker.counted.n_errors_by_code)
        embed_s = time.monotonic() - self._started
        n_left = max(pending.n_left - n_done, 0)
        record = ProgressRecord(
            run_id=publisher.record.run_id,
            phase=phase,
            started_at=self._context.clock.started_at,
            updated_s=time.time(),
            n_rows=pending.n_rows,
            n_complete=min(pending.n_complete + publisher.n_rows, pending.n_rows),
            n_done_now=n_done,
            n_shards=pending.n_shards,
            n_complete_shards=pending.n_complete_shards + publisher.n_completed_shards,
            n_errors_by_code=dict(codes),
            embed_s=round(self._context.clock.timings_s.get("embed", embed_s), 1),
            left_s=round(embed_s * n_left / n_done, 1) if n_done else None,
        )
        with suppress(StorageError), impatient():
            write_progress(self._context.output, record)
