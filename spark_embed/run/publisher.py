"""Keeps the books of a run: what is published, which complete waves are not, and when they must be."""

from __future__ import annotations

from collections import Counter

from spark_embed.output.publish.change import Change
from spark_embed.output.publish.publish import publish
from spark_embed.output.publish.staging import Staging
from spark_embed.output.records import Ledger, Marker, RunRecord
from spark_embed.output.state import give_up_uploads
from spark_embed.run.context import RunContext
from spark_embed.run.plan import Plan
from spark_embed.spark.settings import count_slots

# Data of waves beyond which it is published while the run goes on, in files of --output_file_bytes: enough
# for a publishing to be worth its while, little enough for no disk to fill up with what is there twice.
_PUBLISH_FILES = 16

_MIN_TABLE_BYTES = 16 << 20


class Publisher:
    """The published files of a run and its complete waves.

    Attributes:
        record: of the run.
        ledger: of the published files; None while there are none of this run.
        markers: of complete waves that are not published.
        of_this_run: markers of the waves that were run by this process.
        n_completed_shards: shards that these have completed.
    """

    def __init__(self, context: RunContext, plan: Plan, record: RunRecord) -> None:
        self.record = record
        self.ledger: Ledger | None = plan.run_state.ledger
        self.markers: list[Marker] = list(plan.run_state.markers)
        self.of_this_run: list[Marker] = []
        self._context, self._plan = context, plan
        self._left = Counter[str]()
        for unit in plan.units:
            self._left[unit.shard.name] += unit.n_rows
        self.n_completed_shards = 0

    @property
    def next_wave(self) -> int:
        """A number that no unpublished wave has."""
        return 1 + max((int(marker.wave.partition("-")[0]) for marker in self.markers), default=-1)

    @property
    def n_rows(self) -> int:
        """Rows that were embedded by this process, but for rows of errors.parquet that were tried again."""
        return sum(part.n_rows for marker in self.of_this_run for part in marker.units)

    @property
    def n_rows_left(self) -> int:
        """Rows that are not complete; of the input as it was planned."""
        return self._left.total()

    @property
    def has_rows(self) -> bool:
        """Whether anything is complete: otherwise there is nothing to publish, not even columns."""
        return self.ledger is not None or bool(self.markers)

    def settle(self) -> None:
        """Publish what an interrupted run has tried again, by itself and before anything else.

        So no row is tried again twice, and none is missed where its shard is replaced or gone by now.

        Raises:
            StorageError, ResumeError: as `add`.
        """
        retried = [marker for marker in self.markers if marker.kind == "retry"]
        if retried and self.ledger is not None:
            others = [marker for marker in self.markers if marker.kind != "retry"]
            self._publish(Change(tuple(retried), {}))
            self.markers = others

    def add(self, marker: Marker) -> None:
        """Take in a wave that is complete now; publish if much is unpublished.

        Raises:
            StorageError: publishing failed.
            ResumeError: this run has lost its lock.
        """
        self.markers.append(marker)
        self.of_this_run.append(marker)
        for part in marker.units:
            self._left[part.shard] -= part.n_rows
            self.n_completed_shards += not self._left[part.shard]
        if self._may_publish_early():
            self._publish(self._change())

    @property
    def may_publish_part(self) -> bool:
        """Whether what is complete can be published before the rest is, and takes nothing from readers."""
        plan = self._plan
        return not (plan.pending.replaced or plan.run_state.older or self.record.output_files)

    def finish(self) -> Ledger:
        """Publish what is not published, and take away what the input has no more, once all waves are over.

        Of replaced shards that are not complete, the old rows stay, and the new ones are done again.

        Raises:
            StorageError, ResumeError: as `add`.
        """
        change = self._change()
        if self.ledger is None or self.markers or change.removed:
            ledger = self._publish(change)
            give_up_uploads(self._context.output)  # of tasks that were lost
            return ledger
        return self.ledger

    def _may_publish_early(self) -> bool:
        """Say whether enough is unpublished, and publishing it takes nothing from readers or later waves."""
        n_bytes = sum(sum(marker.files.values()) for marker in self.markers)
        return (
            n_bytes > _PUBLISH_FILES * self._context.config.output_file_bytes
            and self.may_publish_part
            and not self._context.config.retry_errors
        )

    def _change(self) -> Change:
        """Return what the unpublished waves change, and what is gone from the input."""
        source, pending = self._plan.source, self._plan.pending
        withheld = pending.replaced & {name for name, n_rows in self._left.items() if n_rows}
        gone = frozenset(pending.gone if self._context.config.prune else ())
        return Change(
            tuple(self.markers),
            {shard.name: shard.version for shard in source.shards},
            withheld,
            (pending.replaced - withheld) | gone,
        )

    def _publish(self, change: Change) -> Ledger:
        self._context.check()
        spark, output = self._context.spark, self._context.output
        file_bytes: int = self._context.config.output_file_bytes
        if self._plan.source.is_table:  # or one task would write what the others have predicted in no time
            n_bytes = sum(sum(marker.files.values()) for marker in self.markers)
            share = max(n_bytes // count_slots(spark)[0], _MIN_TABLE_BYTES)
            file_bytes = min(file_bytes, share)
        staging = Staging(spark, output, self.record, self.ledger, change, file_bytes)
        self.ledger = publish(staging, self._plan.run_state.older, self._context.check)
        self.markers = []
        return self.ledger
