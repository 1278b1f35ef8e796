"""What the state of an output folder says at one moment, for those who only look; writes nothing.

A run may be at work meanwhile: each file is whole when it is read, but two of them may be of two moments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from spark_embed.errors import ConfigError
from spark_embed.output.folder import STATE_NAME, Output
from spark_embed.output.lock.lock import read_owner
from spark_embed.output.lock.owner import Owner
from spark_embed.output.records import Ledger, Marker, ProgressRecord, RunRecord
from spark_embed.output.state import read_ledger, read_markers, read_progress, read_run
from spark_embed.storage import exists, is_folder, list_names

_TRIES = 3


@dataclass(frozen=True)
class Snapshot:
    """The records of a run, those of older ones left out.

    Attributes:
        owner: the run at work; None if there is none.
        run: None while the first run has not come so far.
        waves: complete, and not in the ledger yet.
        ledger: what is published, be it of an older run.
        progress: of the last run at work; None also if it does not belong to `run`.
    """

    owner: Owner | None
    run: RunRecord | None
    waves: tuple[Marker, ...]
    ledger: Ledger | None
    progress: ProgressRecord | None

    @property
    def is_older(self) -> bool:
        """Whether what is published is of an older run, which this one is to replace."""
        return self.ledger is not None and self.run is not None and self.ledger.run_id != self.run.run_id

    @property
    def is_progress_live(self) -> bool:
        """Whether the run at work has written its progress: before that it is the one's before it."""
        if self.owner is None or self.progress is None:
            return False
        return self.progress.updated_s >= _seconds(self.owner.since)

    @property
    def n_complete(self) -> int:
        """Rows of the input that are published or in complete waves.

        What is published may be of an input that has changed since, so the run's own count goes first.
        """
        if self.progress and self.progress.n_rows:
            since = self.progress.updated_s
            later = [wave for wave in self.waves if _seconds(wave.finished_at) >= since]
            return min(self.progress.n_complete + _count_new(later), self.progress.n_rows)
        ledger = None if self.is_older else self.ledger
        return (ledger.n_embedded + ledger.n_errors if ledger else 0) + _count_new(self.waves)

    @property
    def n_errors_by_code(self) -> dict[str, int]:
        """Errors among them, by code; what a wave of retried rows mends counts when it is published."""
        counts = Counter[str]()
        if self.ledger and not self.is_older:
            counts.update(self.ledger.n_errors_by_code)
        for wave in self.waves:
            if wave.kind == "embed":
                counts.update(wave.counted.n_errors_by_code)
        return dict(sorted(counts.items()))


def read_snapshot(output: Output) -> Snapshot:
    """Read the state of an output folder.

    Raises:
        ConfigError: there is no such folder, or it is not ours.
        ResumeError: a file of the state is broken.
        StorageError: one cannot be read.
    """
    if not is_folder(output.root):
        raise ConfigError(f"{output.root}: there is no such folder; give the --output_dir of a run")
    for _ in range(_TRIES):
        waves = list_names(output.markers)
        found = _read_once(output)
        if read_run(output) == found.run and list_names(output.markers) == waves:
            break  # all of one moment
    if not (found.run or found.ledger or found.progress or exists(output.lock)):
        raise ConfigError(
            f"{output.root}: holds no {STATE_NAME}/run.json, so no run of spark_embed; "
            "give the --output_dir of a run"
        )
    return found


def _read_once(output: Output) -> Snapshot:
    # The order matters: a run that ends meanwhile would look interrupted if its lock were read after its
    # progress, and waves that are published meanwhile would be in neither if the ledger came first.
    owner = read_owner(output.lock)
    run = read_run(output)
    markers = read_markers(output)
    ledger = read_ledger(output)
    progress = read_progress(output)
    if run and progress and progress.run_id != run.run_id:
        progress = None
    published = ledger.waves if ledger else ()
    return Snapshot(
        owner=owner if owner and owner.is_alive else None,
        run=run,
        waves=tuple(one for one in markers if run and one.run_id == run.run_id and one.wave not in published),
        ledger=ledger,
        progress=progress,
    )


def _count_new(waves: Iterable[Marker]) -> int:
    return sum(wave.counted.n_rows for wave in waves if wave.kind == "embed")


def _seconds(time: str) -> float:
    """Return an ISO 8601 time as Unix time; 0 if it is none."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0
