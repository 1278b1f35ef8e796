"""What a run goes on from: what of the state counts, and what of it nobody will need. Driver only."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from spark_embed.config import Config
from spark_embed.errors import ResumeError
from spark_embed.output.fingerprint import describe_rows
from spark_embed.output.folder import DRAFT_PREFIX, TABLE_NAMES, Output
from spark_embed.output.records import Ledger, Marker, RunRecord
from spark_embed.output.state import (
    delete_wave,
    give_up_uploads,
    is_whole,
    read_ledger,
    read_markers,
    read_metadata,
    read_progress,
    read_run,
)
from spark_embed.storage import delete, delete_file, list_names, put_back

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunState:
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


def find_run_state(output: Output, config: Config) -> RunState:
    """Read the state. Writes nothing.

    Raises:
        ResumeError: it is broken, not ours, or of a run over other rows.
    """
    record = read_run(output)
    if config.overwrite or record is None:
        return RunState(None, None, (), _read_older(output))
    ledger = read_ledger(output)
    for read in (read_progress, read_metadata):  # a run writes these anew: not over what is not ours
        read(output)
    _check_options(output, record, config)
    if ledger and ledger.run_id != record.run_id:
        ledger, older = None, ledger
    else:
        older = None
    published = ledger.waves if ledger else ()
    ours = [one for one in read_markers(output) if one.run_id == record.run_id and one.wave not in published]
    whole = []
    for marker in ours:
        if is_whole(output, marker):
            whole.append(marker)
        else:
            logger.warning("wave %s: its data is not what its marker says; it is done again", marker.wave)
    return RunState(record, ledger, tuple(whole), older)


def _check_options(output: Output, record: RunRecord, config: Config) -> None:
    """Compare the options that hold for a data set, whatever its model.

    Raises:
        ResumeError: one differs from the run's.
    """
    rows = describe_rows(config)
    if (known := record.fingerprint.get("rows")) != rows:
        raise ResumeError(
            f"--output_dir {output.root}: holds a run over other rows (--max_samples): {known} -> {rows}. "
            "Start anew with --overwrite, or choose another --output_dir"
        )
    if record.output_files != config.output_files:
        what = "one file of each kind" if record.output_files else "folders of files"
        how = "with --output_files 1" if record.output_files else "without --output_files"
        raise ResumeError(
            f"--output_dir {output.root}: holds a run that writes {what}. Go on {how}, start anew with "
            "--overwrite, or choose another --output_dir"
        )


def _read_older(output: Output) -> Ledger | None:
    """Return the list of the files that will be replaced; none of a broken one: it has no say any more."""
    try:
        return read_ledger(output)
    except ResumeError as exc:
        logger.warning("%s", exc)
        return None


def tidy(output: Output, run_state: RunState) -> None:
    """Delete what interrupted runs have left: half-written files, data of waves that never completed.

    Only while nobody else is at work in the folder.

    Raises:
        StorageError: something cannot be deleted.
    """
    kept = {marker.wave for marker in run_state.markers}
    names = {*list_names(output.waves), *(name.removesuffix(".json") for name in list_names(output.markers))}
    for name in names - kept:
        delete_wave(output, name)
    delete(os.path.dirname(output.staged))
    for name in list_names(output.state):
        if name.startswith(DRAFT_PREFIX):
            delete(os.path.join(output.state, name))
    for folder in (output.root, output.state, output.markers):
        for name in list_names(folder):
            if name.endswith(".tmp") and not name.startswith("lock."):  # the lock's are its own business
                delete(os.path.join(folder, name))
    give_up_uploads(output)
    ledger = run_state.ledger or run_state.older
    if ledger:
        replaced = output.replaced_of(ledger.run_id)
        for kind in list_names(replaced):
            put_back(os.path.join(replaced, kind), output.data_path(kind, kind))
    delete(output.replaced)
    delete_unlisted(output, ledger)


def delete_unlisted(output: Output, ledger: Ledger | None) -> None:
    """Delete the files of the tables that the ledger does not list: of a publishing that was cut off.

    Raises:
        StorageError: one cannot be deleted.
    """
    if ledger is None:
        return
    tables = dict(ledger.tables)
    for kind in TABLE_NAMES:
        if kind not in tables:  # of an older run, whose model gave something else
            delete(output.table(kind))
            continue
        for name in set(output.data_names(kind)) - {file.name for file in tables[kind]}:
            (delete_file if name == kind else delete)(output.data_path(kind, name))
