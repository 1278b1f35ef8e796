"""Complete waves -> right-sized embeddings.parquet and errors.parquet, and the list of their files.

Needs no model. A publishing makes its files aside, moves them into their places, writes the list
(files.json), and then deletes what the list has no more. Cut off before the list is there, it never
happened; after that, only deleting is left.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spark_embed.errors import NoSpaceError, StorageError
from spark_embed.output import EMBEDDINGS_NAME, ERRORS_NAME, Output
from spark_embed.records import Ledger, PublishedFile
from spark_embed.resume import delete_unlisted
from spark_embed.schema import ERROR, ERROR_DETAIL, IMAGE_ID
from spark_embed.staging import Staging
from spark_embed.state import delete_wave, write_ledger
from spark_embed.storage import (
    delete,
    delete_uploads,
    free_bytes,
    list_names,
    make_folder,
    no_space_error,
    parquet_input,
)
from spark_embed.storage.staged import publish_file

_N_EXAMPLES = 3


def publish(staging: Staging) -> Ledger:
    """Bring the published files up to date; returns the new list of them.

    No shuffle, and the model has run already. What an older run has published goes.

    Raises:
        StorageError: writing failed, or rows went missing; what was published before is untouched.
    """
    output = staging.output
    try:
        ledger = staging.stage()
        for name, published in ((EMBEDDINGS_NAME, output.embeddings), (ERRORS_NAME, output.errors)):
            _move_files(os.path.join(output.staged, name), published)
        write_ledger(output, ledger)
    except NoSpaceError as exc:
        delete(output.staged)
        n_bytes = sum(sum(marker.files.values()) for marker in staging.change.markers)
        raise no_space_error(output.root, n_bytes - free_bytes(output.root)) from exc
    finally:
        delete(output.staged)
        for path in (output.embeddings, output.errors):
            delete_uploads(path)  # of tasks that failed
    delete_unlisted(output, ledger)
    for wave in ledger.waves:
        delete_wave(output, wave)
    return ledger


def _move_files(folder: str, to: str) -> None:
    make_folder(to)
    for name in list_names(folder):
        publish_file(os.path.join(folder, name), os.path.join(to, name))


def read_error_examples(
    output: Output, files: Iterable[PublishedFile], codes: Iterable[str]
) -> dict[str, list[dict[str, str]]]:
    """Return the first few rows with each of these codes: image_id and error_detail.

    Args:
        output: the places of the output.
        files: of errors.parquet.
        codes: to look for.

    Raises:
        StorageError: it cannot be read.
    """
    found: dict[str, list[dict[str, str]]] = {code: [] for code in codes}
    try:
        for file in files:
            with pq.ParquetFile(parquet_input(os.path.join(output.errors, file.name))) as opened:
                for batch in opened.iter_batches(columns=[IMAGE_ID, ERROR, ERROR_DETAIL]):
                    _add_examples(found, batch)
                    if all(len(examples) == _N_EXAMPLES for examples in found.values()):
                        return found
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{output.errors}: cannot be read back: {exc}") from exc
    return found


def _add_examples(found: dict[str, list[dict[str, str]]], batch: pa.RecordBatch) -> None:
    codes = batch.column(ERROR)
    for code, examples in found.items():
        if wanted := _N_EXAMPLES - len(examples):
            rows = batch.filter(pc.equal(codes, code)).slice(0, wanted)
            examples += rows.select([IMAGE_ID, ERROR_DETAIL]).to_pylist()
