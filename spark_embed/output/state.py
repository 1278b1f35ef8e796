"""What a run leaves below _spark_embed to go on from: its record, the markers of waves, the list of files.

Driver only; knows no Spark and no model. Each file is written whole or not at all, and says its format.

- run.json: what produces the vectors (the fingerprint). Written before the first wave.
- markers/<wave>.json: a wave is complete, with these units, in these files. Written when its data is there;
  a wave without a marker never happened.
- files.json: the published files and the units in them (the ledger). Written last.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import ValidationError

from spark_embed.errors import ResumeError, StorageError
from spark_embed.output.folder import TABLE_NAMES, Output
from spark_embed.output.records import Ledger, Marker, Part, ProgressRecord, Record, RunRecord, ShardState
from spark_embed.output.summary import RunSummary
from spark_embed.storage import (
    create_text,
    delete,
    delete_uploads,
    list_files,
    list_names,
    read_json,
    read_text,
    replace_text,
    write_text,
)

_SUFFIX = ".json"

AnyRecord = TypeVar("AnyRecord", bound=Record)


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


def write_ledger(output: Output, ledger: Ledger, replaced: Ledger | None) -> None:
    """Write files.json: from here on its files are the data set.

    Args:
        output: the places of the output.
        ledger: the new list.
        replaced: the list that its making began from; a broken one, or none, may always be replaced.

    Raises:
        StorageError: it cannot be written.
        ResumeError: another list is there by now: another run has published.
    """

    def may_replace(there: bytes | None) -> bool:
        try:
            found = None if there is None else Ledger.model_validate_json(there)
        except ValidationError:
            return True
        return found is None or _state_of(found) == _state_of(replaced)

    if not replace_text(output.ledger, ledger.model_dump_json(by_alias=True) + "\n", may_replace):
        raise ResumeError(
            f"{output.ledger}: another run has published meanwhile; this run changes nothing more: "
            "start it again when no other is at work there"
        )


def _state_of(ledger: Ledger | None) -> tuple[str, int] | None:
    return None if ledger is None else (ledger.run_id, ledger.generation)


def read_metadata(output: Output) -> RunSummary | None:
    """Return what metadata.json says, None if there is none.

    Raises:
        ResumeError: it is broken, or not ours.
    """
    try:
        values = read_json(output.metadata)
        return None if values is None else RunSummary.from_dict(values)
    except (StorageError, TypeError, KeyError, AttributeError) as exc:
        if isinstance(exc.__cause__, OSError):
            raise
        cure = "delete it, and it is written anew"
        raise _broken(output.metadata, str(exc.__cause__ or exc), cure) from exc


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
    create_text(_marker_path(output, marker.wave), marker.model_dump_json() + "\n")


def delete_wave(output: Output, wave: str) -> None:
    """Delete a wave, its marker first: data without a marker is nobody's.

    Raises:
        StorageError: it cannot be deleted.
    """
    delete(_marker_path(output, wave))
    delete(output.wave(wave))


def give_up_uploads(output: Output) -> None:
    """Give up what tasks of runs were uploading to S3 and never completed; not what others put beside it.

    Raises:
        StorageError: S3 does not do it.
    """
    for place in (output.state, *map(output.table, TABLE_NAMES)):
        delete_uploads(place)


def is_whole(output: Output, marker: Marker) -> bool:
    """Say whether the wave's files are there: a machine that lost power may have lost some.

    Raises:
        StorageError: the storage does not say.
    """
    try:
        there = {file.path: file.n_bytes for file in list_files(output.wave(marker.wave), ".parquet")}
    except StorageError as exc:
        if isinstance(exc.__cause__, FileNotFoundError):
            return False
        raise
    return all(there.get(name) == n_bytes for name, n_bytes in marker.files.items())


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
    try:
        text = read_text(path)
        return None if text is None else record.model_validate_json(text)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise _broken(path, f"{place}: {first['msg']}", cure) from exc
    except StorageError as exc:
        if isinstance(exc.__cause__, OSError):
            raise
        raise _broken(path, str(exc.__cause__), cure) from exc


def _broken(path: str, reason: str, cure: str) -> ResumeError:
    return ResumeError(f"{path}: is broken, or no spark_embed of this version wrote it ({reason}); {cure}")
