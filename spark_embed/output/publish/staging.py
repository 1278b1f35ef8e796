"""The files that a publishing adds, made aside; and the list that there will be. Knows no order of steps."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import SparkSession

from spark_embed.errors import StorageError
from spark_embed.output.fingerprint import results_of
from spark_embed.output.folder import Output
from spark_embed.output.publish.change import Change, make_metadata
from spark_embed.output.publish.merge import Merge, merge_files
from spark_embed.output.publish.output_files import Target
from spark_embed.output.publish.removal import NOTHING, Removal, Rewrite, rewrite_file
from spark_embed.output.records import Ledger, Marker, PublishedFile, RunRecord, now
from spark_embed.output.state import with_parts
from spark_embed.schema import ERRORS_NAME, Results, table_name
from spark_embed.spark.tasks import run_tasks
from spark_embed.storage import delete


@dataclass
class _Files:
    """Files of the two tables, and the rows that were left out of them."""

    results: list[PublishedFile] = field(default_factory=list)
    errors: list[PublishedFile] = field(default_factory=list)
    n_removed: int = 0

    @property
    def n_rows(self) -> int:
        return sum(file.n_rows for file in (*self.results, *self.errors))


@dataclass(frozen=True)
class Staging:
    """One publishing's files.

    Attributes:
        base: what the run has published; None for nothing.
        change: what to add and to take away.
        file_bytes: wanted size of a file.
    """

    spark: SparkSession
    output: Output
    record: RunRecord
    base: Ledger | None
    change: Change
    file_bytes: int

    @property
    def given(self) -> Results:
        """What the run's model gives."""
        return results_of(self.record.fingerprint)

    @property
    def generation(self) -> int:
        """The number of the list that there will be."""
        return self.base.generation + 1 if self.base else 0

    def stage(self) -> Ledger:
        """Make the new files aside; returns what the list will be."""
        added = self._merge()
        kept, gone = self._rewrite()
        self._check(added, gone)
        shards = {
            name: state
            for name, state in (self.base.shards if self.base else {}).items()
            if name not in self.change.removed
        }
        parts = [
            part
            for marker in self.change.markers
            for part in set(marker.units) - set(self.change.dropped(marker))
        ]
        return Ledger(
            run_id=self.record.run_id,
            generation=self.generation,
            updated_at=now(),
            shards=with_parts(shards, parts),
            table=table_name(self.given),
            results=self._filled(kept.results + added.results, table_name(self.given)),
            errors=self._filled(kept.errors + added.errors, ERRORS_NAME),
            waves=tuple(marker.wave for marker in self.change.markers),
        )

    def _merge(self) -> _Files:
        """Put the waves' files together."""
        groups: dict[Removal, list[Marker]] = {}
        for marker in self.change.markers:
            # One file is the work of one task, whatever is left out of its waves.
            removal = NOTHING if self.record.output_files else self._removal_of(marker)
            groups.setdefault(removal, []).append(marker)
        merges: list[Merge] = []
        for markers in groups.values():
            merges += self._merges(markers, len(merges))
        added = _Files()
        for answer in run_tasks(self.spark, merge_files, merges) if merges else ():
            added.results += _records(answer["results"])
            added.errors += _records(answer["errors"])
            added.n_removed += answer["n_removed"]
        return added

    def _removal_of(self, marker: Marker) -> Removal:
        return Removal(tuple(sorted({part.shard for part in self.change.dropped(marker)})))

    def _merges(self, markers: Sequence[Marker], first: int) -> list[Merge]:
        files: list[tuple[str, int]] = []
        removals: dict[str, Removal] = {}
        for marker in markers:
            folder, removal = self.output.wave(marker.wave), self._removal_of(marker)
            paths = {os.path.join(folder, name): n_bytes for name, n_bytes in marker.files.items()}
            files += paths.items()
            removals |= dict.fromkeys(paths, removal) if removal else {}
        n_rows = sum(marker.counted.n_rows for marker in markers)
        n_files = max(1, math.ceil(sum(n_bytes for _, n_bytes in files) / self.file_bytes))
        n_files = self.record.output_files or n_files
        rows_per_file = max(1, math.ceil(n_rows / n_files))
        return [
            Merge(
                tuple(group),
                self._target(table_name(self.given), f"{number:05d}", rows_per_file),
                self._target(ERRORS_NAME, f"{number:05d}", rows_per_file),
                {path: removals[path] for path in group if path in removals},
            )
            for number, group in enumerate(_grouped(files, n_files), start=first)
        ]

    def _target(self, kind: str, name: str, rows_per_file: int) -> Target:
        metadata = make_metadata(self.spark.version, self.record, kind)
        folder = os.path.join(self.output.staged, kind)
        if self.record.output_files:
            return Target(folder, self.output.root, kind, None, metadata, self.given)
        name = f"part-{self.generation:05d}-{name}-{self.output.attempt}"
        place = os.path.join(self.output.root, kind)
        return Target(folder, place, name, rows_per_file, metadata, self.given)

    def _rewrite(self) -> tuple[_Files, _Files]:
        """Make the published files anew that hold rows which go; returns what there is, and what went."""
        kept, gone = _Files(), _Files()
        if self.base is None:
            return kept, gone
        retried = tuple(
            os.path.join(self.output.wave(marker.wave), name)
            for marker in self.change.markers
            if marker.kind == "retry"
            for name in marker.files
        )
        removal = Removal(tuple(sorted(self.change.removed)))
        retried_too = Removal(removal.shards, retried)
        # Rows that lack one of several results are tried again, too.
        of_results = retried_too if len(self.given) > 1 else removal
        kinds = (
            (self.base.table, self.base.results, of_results, kept.results),
            (ERRORS_NAME, self.base.errors, retried_too, kept.errors),
        )
        for kind, files, kind_removal, found in kinds:
            if not kind_removal:
                found += files
                continue
            rewrites = [
                Rewrite(
                    self.output.data_path(kind, file.name),
                    self._target(kind, f"r{number:05d}", max(file.n_rows, 1)),
                    kind_removal,
                )
                for number, file in enumerate(files)
            ]
            for file, answer in zip(files, run_tasks(self.spark, rewrite_file, rewrites), strict=True):
                found += [file] if answer is None else _records(answer["written"])
                gone.n_removed += answer["n_removed"] if answer else 0
        return kept, gone

    def _check(self, added: _Files, gone: _Files) -> None:
        """Compare the rows that went in with those that would be published, and those that go.

        Raises:
            StorageError: they are not the same number.
        """
        change = self.change
        n_in = sum(marker.counted.n_rows for marker in change.markers)
        n_retried = sum(marker.counted.n_rows for marker in change.markers if marker.kind == "retry")
        n_dropped = sum(part.n_rows for marker in change.markers for part in change.dropped(marker))
        shards = self.base.shards if self.base else {}
        n_old = sum(n for name in change.removed & set(shards) for _, n in shards[name].ranges)
        n_to_go = n_retried + n_dropped + n_old
        if (added.n_rows + added.n_removed, added.n_removed + gone.n_removed) != (n_in, n_to_go):
            raise StorageError(
                f"{n_in} rows in complete waves, of which and of the published ones {n_to_go} are to go; but "
                f"{added.n_rows} would be published, and {added.n_removed + gone.n_removed} go. This is "
                f"a bug; nothing was published; see {self.output.waves}"
            )

    def _filled(self, files: Sequence[PublishedFile], kind: str) -> tuple[PublishedFile, ...]:
        """Return the files that have rows, or else one without; delete the others that were just made."""
        filled = [file for file in files if file.n_rows] or list(files[:1])
        for name in {file.name for file in files} - {file.name for file in filled}:
            delete(os.path.join(self.output.staged, kind, name))
        return tuple(filled)


def _records(written: Iterable[dict[str, Any]]) -> list[PublishedFile]:
    return [PublishedFile.model_validate(file) for file in written]


def _grouped(files: Sequence[tuple[str, int]], n_groups: int) -> list[list[str]]:
    """Cut files, as (path, bytes), in their order into at most so many groups of about the same bytes."""
    share = sum(n_bytes for _, n_bytes in files) / n_groups
    groups: list[list[str]] = [[]]
    total = 0
    for path, n_bytes in files:
        if groups[-1] and total >= share * len(groups):
            groups.append([])
        groups[-1].append(path)
        total += n_bytes
    return groups
