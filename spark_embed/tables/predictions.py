"""`spark-embed validate INPUT --predictions OUTPUT`: after a run, is each row of the input there, once?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from spark_embed.errors import StorageError, one_line
from spark_embed.schema import ERRORS_NAME, PREDICTION_SCORE, PREDICTIONS_NAME
from spark_embed.storage import exists, folder_path
from spark_embed.tables.ids import Ids
from spark_embed.tables.reading import list_tables, read_column
from spark_embed.tables.validate import Validation


def published_tables(uri: str, flag: str) -> list[str]:
    """Return the paths of a table's files; of the output folder of a run those of its predictions.

    Raises:
        ConfigError: there are none.
        StorageError: the store does not say.
    """
    predictions = f"{folder_path(uri, flag)}/{PREDICTIONS_NAME}"
    try:
        is_run = exists(predictions)
    except OSError as exc:
        raise StorageError(f"{flag} {uri}: cannot be listed: {one_line(exc)}") from exc
    return list_tables(predictions if is_run else uri, flag)


def check_predictions(uri: str, output_dir: str, id_column: str) -> Validation:
    """Hold what a run wrote against its input.

    Raises:
        ConfigError: one of the two is not there, or lacks the column.
        StorageError: a file cannot be read.
    """
    root = folder_path(output_dir, "--predictions")
    predicted, failed = (list_tables(f"{root}/{name}", root) for name in (PREDICTIONS_NAME, ERRORS_NAME))
    n_given, given = _read_ids(list_tables(uri, "INPUT"), id_column)
    n_written, written = _read_ids([*predicted, *failed], id_column)
    n_failed, _ = _read_ids(failed, id_column)
    found = Validation(uri, n_given, columns=[id_column], n_errors=n_failed)
    if n_written != n_given:
        found.broken.append(f"{n_written:,} rows in the output, and {n_given:,} in the input")
    if n := sum(column.null_count for column in read_column(predicted, PREDICTION_SCORE)):
        found.broken.append(f"{PREDICTION_SCORE}: missing in {n:,} rows")
    for (n, some), what in (
        (written.repeated(), "rows of the output repeat the id of another"),
        (given.not_in(written), "ids are in the input alone"),
        (written.not_in(given), "ids are in the output alone"),
    ):
        if n:
            found.broken.append(f"{id_column}: {n:,} {what}: {', '.join(some)}")
    return found


def _read_ids(paths: Sequence[str], name: str) -> tuple[int, Ids]:
    ids, n_rows = Ids(partial(read_column, paths, name)), 0
    for column in read_column(paths, name):
        ids.add(column)
        n_rows += len(column)
    return n_rows, ids
