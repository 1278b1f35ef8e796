"""What a run goes on from: what of the state counts, what is left to do, and what can go. Driver only."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spark_embed.config import Config
from spark_embed.errors import ResumeError
from spark_embed.fingerprint import describe_rows
from spark_embed.output import Output
from spark_embed.source import ParquetSource
from spark_embed.source.units import Unit, subtract, units_of
from spark_embed.state import (
    Ledger,
    Marker,
    RunRecord,
    delete_wave,
    is_whole,
    joined,
    read_ledger,
    read_markers,
    read_run,
)
from spark_embed.storage import delete, list_names

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """What stands in the output folder.

    Attributes:
        record: of the run to go on with; None where there is none, or --overwrite starts anew.
        ledger: what that run has published.
        markers: its complete waves that are not published.
        older: what an older run has published, which the first publishing of this one replaces.
    """

    record: RunRecord | None
    ledger: Ledger | None
    markers: tuple[Marker, ...]
    older: Ledger | None


@dataclass(frozen=True)
class Pending:
    """What is left to do.

    Attributes:
        units: rows to embed, in shard order.
        replaced: shards of which rows of another content are published.
        gone: shards that are published, or complete, and not in the input any more.
        n_rows: rows of the input.
        n_complete: of them complete.
        n_shards, n_complete_shards: shards of the input, and of them complete; images, of an image folder.
    """

    units: tuple[Unit, ...]
    replaced: frozenset[str]
    gone: tuple[str, ...]
    n_rows: int
    n_complete: int
    n_shards: int
    n_complete_shards: int


def find_standing(output: Output, config: Config) -> Standing:
    """Read the state. Writes nothing.

    Raises:
        ResumeError: it is broken, not ours, or of a run over other rows.
    """
    record, ledger = read_run(output), read_ledger(output)
    if config.overwrite or record is None:
        return Standing(None, None, (), ledger)
    rows = describe_rows(config)
    if (known := record.fingerprint.get("rows")) != rows:
        raise ResumeError(
            f"--output_dir {output.root}: holds a run over other rows (--max_samples): {known} -> {rows}. "
            "Start anew with --overwrite, or choose another --output_dir"
        )
    if ledger and ledger.run_id != record.run_id:
        ledger, older = None, ledger
    else:
        older = None
    published = ledger.waves if ledger else ()
    ours = [one for one in read_markers(output) if one.run_id == record.run_id and one.wave not in published]
    whole = tuple(marker for marker in ours if is_whole(output, marker))
    for marker in set(ours) - set(whole):
        logger.warning("wave %s: its data is not what its marker says; it is done again", marker.wave)
    return Standing(record, ledger, whole, older)


def tidy(output: Output, standing: Standing) -> None:
    """Delete what interrupted runs have left: half-written files, data of waves that never completed.

    Only while nobody else is at work in the folder.

    Raises:
        StorageError: something cannot be deleted.
    """
    kept = {marker.wave for marker in standing.markers}
    names = {*list_names(output.waves), *(name.removesuffix(".json") for name in list_names(output.markers))}
    for name in names - kept:
        delete_wave(output, name)
    delete(os.path.dirname(output.staged))
    for folder in (output.state, output.markers):
        for name in list_names(folder):
            if name.endswith(".tmp") and not name.startswith("lock."):  # those belong to this run
                delete(os.path.join(folder, name))
    delete_unlisted(output, standing.ledger or standing.older)


def delete_unlisted(output: Output, ledger: Ledger | None) -> None:
    """Delete the files of the two data sets that the ledger does not list: of a publishing that was cut off.

    Raises:
        StorageError: one cannot be deleted.
    """
    if ledger is None:
        return
    for folder, files in ((output.embeddings, ledger.embeddings), (output.errors, ledger.errors)):
        for name in set(list_names(folder)) - {file.name for file in files}:
            delete(os.path.join(folder, name))


def find_pending(source: ParquetSource, standing: Standing, max_rows: int | None) -> Pending:
    """Compare the input with what is complete.

    Raises:
        ResumeError: the first rows of the data set (--max_samples) are not those that they were.
    """
    versions = {shard.name: shard.version for shard in source.shards}
    published = (
        {name: state.version for name, state in standing.ledger.shards.items()} if standing.ledger else {}
    )
    complete = complete_ranges(standing, versions)
    wanted = units_of(source.shards, max_rows)
    units = tuple(subtract(wanted, complete))
    known = {*published, *(part.shard for marker in standing.markers for part in marker.units)}
    gone = known - {*versions, *(shard.name for shard in source.bad)}
    replaced = {name for name, version in published.items() if versions.get(name, version) != version}
    if max_rows is not None and (gone or replaced):
        raise ResumeError(
            f"the first {max_rows} rows of --input_dir {source.root} are not those that were embedded: "
            f"{min(gone | replaced)} has changed; --overwrite starts anew"
        )
    n_rows = sum(unit.n_rows for unit in wanted)
    n_left = sum(unit.n_rows for unit in units)
    n_shards, n_pending_shards = len(names_of(wanted)), len(names_of(units))
    if source.is_folder:
        n_shards, n_pending_shards = n_rows, n_left
    return Pending(
        units,
        frozenset(replaced),
        tuple(sorted(gone)),
        n_rows=n_rows,
        n_complete=n_rows - n_left,
        n_shards=n_shards + len(source.bad),
        n_complete_shards=n_shards - n_pending_shards,
    )


def complete_ranges(standing: Standing, versions: dict[str, str]) -> dict[str, tuple[tuple[int, int], ...]]:
    """Return which rows of each shard are complete, as (first, number), of the content that it has now."""
    ranges: dict[str, list[tuple[int, int]]] = defaultdict(list)
    if standing.ledger:
        for name, state in standing.ledger.shards.items():
            if versions.get(name) == state.version:
                ranges[name] += state.ranges
    for marker in standing.markers:
        for part in marker.units:
            if versions.get(part.shard) == part.version:
                ranges[part.shard].append((part.first, part.n_rows))
    return {name: joined(found) for name, found in ranges.items()}


def names_of(units: Iterable[Unit]) -> set[str]:
    """Return the shards that the units are of."""
    return {unit.shard.name for unit in units}


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def report_pending(source: ParquetSource, pending: Pending, *, prune: bool) -> None:
    """Say what was found, what of it is complete, and what is not as it was."""
    logger.info(
        "found %s %s shards, %s rows",
        f"{source.n_shards:,}",
        source.layout.replace("_", " "),
        f"{source.n_rows - source.n_voided:,}",
        extra={"n_shards": source.n_shards, "n_rows": source.n_rows, "n_bytes": source.image_bytes},
    )
    for shard in source.bad:
        logger.warning("shard %s is left out, because it cannot be read: %s", shard.name, shard.reason)
    if pending.n_complete:
        logger.info(
            "%s of %s shards complete, %s to do (%s rows)",
            f"{pending.n_complete_shards:,}",
            f"{pending.n_shards:,}",
            f"{pending.n_shards - pending.n_complete_shards:,}",
            f"{pending.n_rows - pending.n_complete:,}",
        )
    if pending.replaced:
        logger.info(
            "%s shards have been replaced and are done again: %s",
            f"{len(pending.replaced):,}",
            _shown(sorted(pending.replaced)),
        )
    if n_gone := len(pending.gone) + source.n_gone:
        logger.warning(
            "%s shards are no longer in the input%s; their rows are %s",
            f"{n_gone:,}",
            f": {_shown(pending.gone)}" if pending.gone else "",
            "deleted (--prune)" if prune else "kept; --prune deletes them",
        )
