"""What a run leaves below _spark_embed to go on from: its record, the markers of waves, the list of files.

Driver only; knows no Spark and no model. Each file is written whole or not at all, and says its format.

- run.json: what produces the vectors (the fingerprint). Written before the first wave.
- markers/<wave>.json: a wave is complete, with these units, in these files. Written when its data is there;
  a wave without a marker never happened.
- files.json: the published files and the units in them (the ledger). Written last.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spark_embed.errors import ResumeError
from spark_embed.output import Output
from spark_embed.storage import delete, list_names, read_text, write_text

_SUFFIX = ".json"

Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class Part(NamedTuple):
    """Rows that are complete together: `n_rows` of a shard's content `version`, from row `first` on.

    `shard` is its name in the data set; in an image folder, that of the index file that lists the images.
    """

    shard: str
    version: str
    first: Count
    n_rows: Count


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    product: Literal["spark_embed"] = "spark_embed"
    format: Literal[1] = 1


class RunRecord(_Record):
    """run.json: what a run is bound to, so that a later one can go on with it.

    Attributes:
        run_id: made anew by --overwrite; markers and ledger of another one are of an older run.
        options: the options that decide what a vector is, as given: while they are the same, and nothing
            is left to embed, no model need be started to know it.
        fingerprint: what decides what a vector is, as found; `spark_embed.fingerprint`.
        table_schema: of the embedded table, as Spark's JSON.
        model, parity, versions: preflight's, for metadata.json.
    """

    run_id: str
    started_at: str
    options: dict[str, Any]
    fingerprint: dict[str, Any]
    table_schema: dict[str, Any]
    model: dict[str, Any]
    parity: dict[str, Any]
    versions: dict[str, str]


class Counted(BaseModel):
    """What a committed wave holds.

    Attributes:
        n_errors_by_code: rows without a vector, by code.
        n_tasks: tasks that had at least one row.
        n_model_loads: how often a worker process had to load the model.
        stage_s: seconds by stage, summed over threads and tasks.
        batch_limit: images that fitted into the memory of the smallest device at once; None: all of a batch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_rows: Count
    n_errors_by_code: dict[str, Count]
    n_tasks: Count
    n_model_loads: Count
    stage_s: dict[str, float]
    batch_limit: int | None

    @property
    def n_errors(self) -> int:
        """Rows without a vector."""
        return sum(self.n_errors_by_code.values())


class Marker(_Record):
    """markers/<wave>.json: a complete wave.

    Attributes:
        wave: name of its folder, below waves/; no other attempt's.
        kind: "embed", or "retry" of rows that are published as errors (its `units` are empty).
        files: bytes by name of its data files, and no others: what a dead driver's executors still write
            is in none.
        embed_s: seconds on the clock.
    """

    run_id: str
    wave: str
    kind: Literal["embed", "retry"] = "embed"
    units: tuple[Part, ...]
    files: dict[str, Count]
    counted: Counted
    embed_s: float
    finished_at: str


class PublishedFile(BaseModel):
    """A file of embeddings.parquet or errors.parquet; `n_errors_by_code` of the latter only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    n_rows: Count
    n_bytes: Count
    n_errors_by_code: dict[str, Count] = {}


class ShardState(NamedTuple):
    """What of a shard is published: its content's version, and rows as (first, number), in order."""

    version: str
    ranges: tuple[tuple[Count, Count], ...]


class Ledger(_Record):
    """files.json: a complete state that readers can rely on.

    Attributes:
        generation: counts the states.
        shards: what is published of each shard, by its name.
        waves: those that this state took in: their data may be left over.
        voided: lists of images whose older rows are gone (an image folder's; source/folder_index.py).
    """

    run_id: str
    generation: Count
    updated_at: str
    shards: dict[str, ShardState]
    embeddings: tuple[PublishedFile, ...]
    errors: tuple[PublishedFile, ...]
    waves: tuple[str, ...] = ()
    voided: tuple[str, ...] = ()

    @property
    def n_embedded(self) -> int:
        """Rows with a vector."""
        return sum(file.n_rows for file in self.embeddings)

    @property
    def n_errors(self) -> int:
        """Rows without one."""
        return sum(file.n_rows for file in self.errors)

    @property
    def n_errors_by_code(self) -> dict[str, int]:
        """Rows without one, by code, sorted."""
        counts: Counter[str] = Counter()
        for file in self.errors:
            counts.update(file.n_errors_by_code)
        return dict(sorted(counts.items()))


class ProgressRecord(_Record):
    """progress.json: how far the run is that is at work, rewritten every few seconds.

    Attributes:
        phase: "embed", "publish" or "done": written as the last act of a run that has ended as it should.
        updated_s: Unix time, seconds, of the machine that runs the driver.
        n_rows: rows that there will be in the end.
        n_complete: of them in complete waves or published.
        n_done_now: of them embedded by this run, those of unfinished waves included; an estimate.
        n_shards, n_complete_shards: those of the input, and of them complete.
        n_errors_by_code: of the complete rows.
        embed_s: seconds that this run has been embedding.
        left_s: seconds until all rows are embedded, about; None while nothing can be said.
    """

    run_id: str
    phase: Literal["embed", "publish", "done"]
    started_at: str
    updated_s: float
    n_rows: Count
    n_complete: Count
    n_done_now: Count
    n_shards: Count
    n_complete_shards: Count
    n_errors_by_code: dict[str, Count]
    embed_s: float
    left_s: float | None


AnyRecord = TypeVar("AnyRecord", bound=_Record)


def read_run(output: Output) -> RunRecord | None:
    """Return run.json, None if there is none.

    Raises:
        ResumeError: it is broken, or not ours.
    """
    return _read(output.run_record, RunRecord, "choose another --output_dir, or delete the folder")


def write_run(output: Output, record: RunRecord) -> None:
    """Write run.json.

    Raises:
        StorageError: it cannot be written.
    """
    write_text(output.run_record, record.model_dump_json(indent=2) + "\n")


def read_ledger(output: Output) -> Ledger | None:
    """Return files.json, None if nothing has been published.

    Raises:
        ResumeError: it is broken, or not ours.
    """
    return _read(output.ledger, Ledger, "put a copy back, or start anew with --overwrite")


def write_ledger(output: Output, ledger: Ledger) -> None:
    """Write files.json: from here on its files are the data set.

    Raises:
        StorageError: it cannot be written.
    """
    write_text(output.ledger, ledger.model_dump_json() + "\n")


def read_progress(output: Output) -> ProgressRecord | None:
    """Return progress.json, None if there is none.

    Raises:
        ResumeError: it is broken, or not ours.
    """
    return _read(output.progress, ProgressRecord, "delete it; the next run writes it anew")


def write_progress(output: Output, record: ProgressRecord) -> None:
    """Write progress.json.

    Raises:
        StorageError: it cannot be written.
    """
    write_text(output.progress, record.model_dump_json(indent=2) + "\n")


def read_markers(output: Output) -> list[Marker]:
    """Return the markers of complete waves, by name.

    Raises:
        ResumeError: one is broken, or not ours.
    """
    cure = "delete it, and its wave is done again"
    names = [name for name in list_names(output.markers) if name.endswith(_SUFFIX)]
    found = [_read(os.path.join(output.markers, name), Marker, cure) for name in names]
    return [marker for marker in found if marker]


def write_marker(output: Output, marker: Marker) -> None:
    """Mark a wave complete.

    Raises:
        StorageError: the marker cannot be written.
    """
    write_text(_marker_path(output, marker.wave), marker.model_dump_json() + "\n")


def delete_wave(output: Output, wave: str) -> None:
    """Delete a wave, its marker first: data without a marker is nobody's.

    Raises:
        StorageError: it cannot be deleted.
    """
    delete(_marker_path(output, wave))
    delete(output.wave(wave))


def is_whole(output: Output, marker: Marker) -> bool:
    """Say whether the wave's files are there: a machine that lost power may have lost some."""
    folder = output.wave(marker.wave)
    try:
        return all(os.path.getsize(os.path.join(folder, name)) == size for name, size in marker.files.items())
    except OSError:
        return False


def later_voids(voided: Sequence[str], index_file: str) -> list[str]:
    """Return the lists of void images that are younger than an index file: those that its rows may be in.

    Names of both begin with the number of the walk that made them (`spark_embed.source.folder_index`).
    """
    return [name for name in voided if _walk_number(name) > _walk_number(index_file)]


def _walk_number(name: str) -> int:
    return int(name.partition("-")[0])


def with_parts(shards: Mapping[str, ShardState], parts: Sequence[Part]) -> dict[str, ShardState]:
    """Return the shards' states with `parts` done, too; parts of another version replace the old ones.

    Args:
        shards: states by name.
        parts: rows that are complete now.

    Raises:
        ValueError: rows would be there twice.
    """
    done: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for part in parts:
        done.setdefault((part.shard, part.version), []).append((part.first, part.n_rows))
    states = dict(shards)
    for (shard, version), ranges in done.items():
        old = states.get(shard)
        known = old.ranges if old and old.version == version else ()
        states[shard] = ShardState(version, joined([*known, *ranges]))
    return states


def joined(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return (first, number) ranges in order, neighbours as one.

    Raises:
        ValueError: two of them overlap, which would be rows that are there twice.
    """
    found: list[tuple[int, int]] = []
    for first, number in sorted(ranges):
        end = sum(found[-1]) if found else 0
        if first < end:
            raise ValueError(f"rows {first} to {end} are there twice")
        if found and first == end:
            found[-1] = (found[-1][0], found[-1][1] + number)
        elif number:
            found.append((first, number))
    return tuple(found)


def _marker_path(output: Output, wave: str) -> str:
    return os.path.join(output.markers, wave + _SUFFIX)


def _read(path: str, record: type[AnyRecord], cure: str) -> AnyRecord | None:
    text = read_text(path)
    if text is None:
        return None
    try:
        return record.model_validate_json(text)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise ResumeError(
            f"{path}: is broken, or no spark_embed of this version wrote it ({place}: {first['msg']}); {cure}"
        ) from exc
