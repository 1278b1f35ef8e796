"""`spark-embed status`: how far the run on an output folder is, for people and for machines."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from spark_embed.output.folder import Output
from spark_embed.output.snapshot import Snapshot, read_snapshot

State = Literal["running", "interrupted", "complete", "incomplete"]

_ENDED = ("done", "stopped")
_TO_DO = {
    "interrupted": "start the same command again, and it goes on",
    "incomplete": "the last run ended without the rest, and its last lines say why",
}


@dataclass(frozen=True)
class Published:
    """What readers find; `is_older` if it is of a run that the one in this folder is to replace."""

    is_older: bool
    generation: int
    n_files: int
    n_embedded: int
    n_errors: int
    updated_at: str


@dataclass(frozen=True)
class Status:
    """What can be said of an output folder; None where it cannot be said.

    Attributes:
        host, pid, since: of the run at work.
        phase: what the last run does, or did last: "embed", "publish", "done" or "stopped".
        n_complete: of the rows those that are published or in complete waves.
        n_waves: complete waves that are not published yet.
        n_shards, n_complete_shards: of the input, and of them complete when the last run began; when it is
            done, by then.
        n_done: rows that the last run has embedded, those of unfinished waves included; about.
        images_per_s: of the last run, from its first wave on.
        left_s: seconds until the run at work has embedded all rows, about.
        errors_by_code: among the complete rows.
        updated_at: when the last run said how far it is: ISO 8601, UTC, by the clock of its machine.
    """

    output_dir: str
    state: State
    host: str | None
    pid: int | None
    since: str | None
    phase: str | None
    n_rows: int | None
    n_complete: int
    n_waves: int
    n_shards: int | None
    n_complete_shards: int | None
    n_done: int | None
    images_per_s: float | None
    left_s: float | None
    errors_by_code: dict[str, int]
    updated_at: str | None
    model: str | None
    published: Published | None

    def to_json(self) -> str:
        """Return the status as a JSON object."""
        return json.dumps(asdict(self), indent=2)

    def text(self) -> str:
        """Return the status for a person, a few lines."""
        lines = {
            "state": self._state_text(),
            "rows": self._rows_text(),
            "shards": self._shards_text(),
            "speed": self._speed_text(),
            "errors": self._errors_text(),
            "updated": self._updated_text(),
            "model": self.model,
            "output": self._output_text(),
        }
        return "\n".join(f"{name:<8}{text}" for name, text in lines.items() if text)

    def line(self) -> str:
        """Return the status as one line: how far, how fast, how many errors."""
        now = (self.phase or "starting") if self.state == "running" else self.state
        told = [now, self._rows_text() if self.n_rows else None, self._speed_text()]
        n_errors = sum(self.errors_by_code.values())
        return ", ".join(filter(None, [*told, f"{n_errors:,} errors" if n_errors else None]))

    def _state_text(self) -> str:
        if self.state == "running":
            phase = self.phase or "starting"
            return f"running on host {self.host}, pid {self.pid}, since {self.since} ({phase})"
        if self.phase == "stopped" and self.state == "incomplete":
            return f"incomplete: stopped at --max_hours or --max_cost; {_TO_DO['interrupted']}"
        return f"{self.state}: {_TO_DO[self.state]}" if self.state in _TO_DO else self.state

    def _rows_text(self) -> str:
        if not self.n_rows:
            return f"{self.n_complete:,} complete"
        percent = math.floor(1000 * self.n_complete / self.n_rows) / 10  # 100 only when all are there
        return f"{self.n_complete:,} of {self.n_rows:,} complete ({percent:.1f} %)"

    def _shards_text(self) -> str | None:
        if self.n_shards is None or self.n_complete_shards is None:
            return None
        when = "" if self.phase in _ENDED else " when the run began"
        return f"{self.n_complete_shards:,} of {self.n_shards:,} complete{when}"

    def _speed_text(self) -> str | None:
        if self.images_per_s is None:
            return None
        left = "" if self.left_s is None else f", about {duration(self.left_s)} left"
        return f"{self.images_per_s:,.1f} images/s, {self.n_done:,} images by this run{left}"

    def _errors_text(self) -> str:
        by_code = ", ".join(f"{n:,} {code}" for code, n in self.errors_by_code.items())
        return f"{sum(self.errors_by_code.values()):,}" + (f" ({by_code})" if by_code else "")

    def _updated_text(self) -> str | None:
        if self.updated_at is None:
            return None
        ago = time.time() - datetime.fromisoformat(self.updated_at).timestamp()
        return self.updated_at + (f", {duration(ago)} ago" if ago >= 0 else "")

    def _output_text(self) -> str:
        found = self.published
        waves = f"{self.n_waves:,} complete waves are not published yet" if self.n_waves else ""
        if found is None:
            return "nothing is published yet" + (f"; {waves}" if waves else "")
        text = (
            f"{found.n_files:,} {'file' if found.n_files == 1 else 'files'} published {found.updated_at}: "
            f"{found.n_embedded:,} rows with a vector, {found.n_errors:,} without"
        )
        older = "an older data set is still published: " if found.is_older else ""
        return older + text + (f"; {waves}" if waves else "")


def read_status(output: Output) -> Status:
    """Read how far the run on an output folder is.

    Raises:
        ConfigError: there is no such folder, or it is not ours.
        ResumeError: a file of its state is broken.
        StorageError: one cannot be read.
    """
    snapshot = read_snapshot(output)
    owner, progress = snapshot.owner, snapshot.progress
    said = progress if snapshot.is_progress_live or owner is None else None  # else it is of the run before
    return Status(
        output_dir=output.root,
        state=_state(snapshot),
        host=owner.host if owner else None,
        pid=owner.pid if owner else None,
        since=owner.since if owner else None,
        phase=said.phase if said else None,
        n_rows=(progress.n_rows or None) if progress else None,
        n_complete=snapshot.n_complete,
        n_waves=len(snapshot.waves),
        n_shards=progress.n_shards if progress else None,
        n_complete_shards=progress.n_complete_shards if progress else None,
        n_done=said.n_done_now if said else None,
        images_per_s=round(said.n_done_now / said.embed_s, 1) if said and said.embed_s else None,
        left_s=said.left_s if said and owner else None,
        errors_by_code=snapshot.n_errors_by_code,
        updated_at=_iso(progress.updated_s) if progress else None,
        model=str(snapshot.run.model.get("name")) if snapshot.run else None,
        published=_published(snapshot),
    )


def duration(seconds: float) -> str:
    """Return a time as people say it: 45 s, 12 min, 3 h 20 min, 2 d 5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min")]
    first = next(i for i, (number, _) in enumerate(parts) if number)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number)


def _state(snapshot: Snapshot) -> State:
    progress = snapshot.progress
    if snapshot.owner:
        return "running"
    if snapshot.ledger is None or snapshot.is_older or snapshot.waves:
        return "interrupted"
    if progress is None or progress.phase not in _ENDED:
        return "interrupted"
    if progress.phase == "stopped":
        return "incomplete"
    is_whole = (progress.n_complete, progress.n_complete_shards) == (progress.n_rows, progress.n_shards)
    return "complete" if is_whole else "incomplete"


def _published(snapshot: Snapshot) -> Published | None:
    ledger = snapshot.ledger
    if ledger is None:
        return None
    return Published(
        is_older=snapshot.is_older,
        generation=ledger.generation,
        n_files=len(ledger.results),
        n_embedded=ledger.n_embedded,
        n_errors=ledger.n_errors,
        updated_at=ledger.updated_at,
    )


def _iso(seconds: float) -> str | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None
