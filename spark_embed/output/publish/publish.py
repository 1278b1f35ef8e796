"""Complete waves -> right-sized files of the two tables, results and errors, and the list of them.

Needs no model. A publishing makes its files aside, moves them into their places, writes the list
(files.json), and then deletes what the list has no more. Cut off before the list is there, it never
happened; after that, only deleting is left. What has to leave its place for a file of the same name is kept
aside until then: the next run puts it back (`spark_embed.output.resume.tidy`).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from spark_embed.errors import NoSpaceError, ResumeError
from spark_embed.output.folder import TABLE_NAMES, Output
from spark_embed.output.publish.staging import Staging
from spark_embed.output.records import Ledger
from spark_embed.output.resume import delete_unlisted
from spark_embed.output.state import delete_wave, write_ledger
from spark_embed.storage import (
    delete,
    delete_uploads,
    free_bytes,
    list_names,
    make_folder,
    make_way,
    no_space_error,
)
from spark_embed.storage.staged import publish_file


def publish(staging: Staging, older: Ledger | None, check: Callable[[], None]) -> Ledger:
    """Bring the published files up to date; returns the new list of them.

    No shuffle, and the model has run already.

    Args:
        staging: the files.
        older: what an older run has published, and what goes.
        check: raises if another run has come to work here: to make files may take long.

    Raises:
        StorageError: writing failed, or rows went missing; what was published before is untouched, or will
            be put back by the next run.
        ResumeError: from `check`; or another run has published in spite of it.
    """
    output = staging.output
    try:
        ledger = staging.stage()
        check()
        for kind, _ in ledger.tables:
            _move_files(output, kind, older)
        check()
        write_ledger(output, ledger, staging.base or older)
    except ResumeError:  # what is in these places may be the other run's
        raise
    except BaseException as exc:
        _clear(output)
        if isinstance(exc, NoSpaceError):
            n_bytes = sum(sum(marker.files.values()) for marker in staging.change.markers)
            raise no_space_error(output.root, n_bytes - free_bytes(output.root)) from exc
        raise
    _clear(output)
    delete_unlisted(output, ledger)
    delete(output.replaced)
    for wave in ledger.waves:
        delete_wave(output, wave)
    return ledger


def _clear(output: Output) -> None:
    """Delete what was staged, and give up the uploads of tasks that failed."""
    delete(output.staged)
    for kind in TABLE_NAMES:
        delete_uploads(output.table(kind))


def _move_files(output: Output, kind: str, older: Ledger | None) -> None:
    staged, place = os.path.join(output.staged, kind), output.data_path(kind, kind)
    names = list_names(staged)
    is_folder = names != [kind]
    aside = output.replaced_of(older.run_id if older else "unlisted")
    make_way(place, os.path.join(aside, kind), for_folder=is_folder)
    if is_folder:
        make_folder(place)
    for name in names:
        publish_file(os.path.join(staged, name), output.data_path(kind, name))
