"""A complete wave -> right-sized embeddings.parquet and errors.parquet; needs no model."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_embed.errors import StorageError
from spark_embed.output import EMBEDDINGS_NAME, ERRORS_NAME, Output
from spark_embed.schema import EMBEDDING, ERROR, ERROR_DETAIL, RESULT, quoted
from spark_embed.storage import delete, list_files, move
from spark_embed.tables import write_parquet


@dataclass(frozen=True)
class Published:
    """What two folders of parquet files hold, by their footers."""

    n_embedded: int
    n_errors: int
    n_files: int
    n_bytes: int


def stage(wave: DataFrame, output: Output, n_rows: int, file_bytes: int) -> Published:
    """Write both data sets beside the published ones, in files of about `file_bytes` each.

    Files are merged by coalesce and cut by rows: no shuffle, and the model has run already.

    Raises:
        StorageError: what was written cannot be read back.
    """
    own = [F.col(quoted(name)) for name in wave.columns if name != RESULT]
    result = F.col(RESULT)
    good = wave.where(result[ERROR].isNull()).select(*own, result[EMBEDDING].alias(EMBEDDING))
    bad = wave.where(result[ERROR].isNotNull()).select(
        *own, result[ERROR].alias(ERROR), result[ERROR_DETAIL].alias(ERROR_DETAIL)
    )
    n_bytes = sum(file.n_bytes for file in list_files(output.wave, ".parquet"))
    n_files = max(1, math.ceil(n_bytes / file_bytes))
    rows_per_file = math.ceil(n_rows / n_files)
    embeddings, errors = (os.path.join(output.staged, name) for name in (EMBEDDINGS_NAME, ERRORS_NAME))
    write_parquet(good.coalesce(n_files), embeddings, EMBEDDING, max_rows_per_file=rows_per_file)
    write_parquet(bad.coalesce(1), errors, EMBEDDING, max_rows_per_file=rows_per_file)
    files = list_files(embeddings, ".parquet")
    return Published(
        n_embedded=_count_rows(embeddings),
        n_errors=_count_rows(errors),
        n_files=len(files),
        n_bytes=sum(file.n_bytes for file in files),
    )


def publish(output: Output) -> None:
    """Put the staged data sets in the place of the published ones.

    metadata.json goes first and comes back last, so that it never describes other files.
    """
    delete(output.metadata)
    for name, published in ((EMBEDDINGS_NAME, output.embeddings), (ERRORS_NAME, output.errors)):
        delete(published)
        move(os.path.join(output.staged, name), published)


def _count_rows(folder: str) -> int:
    paths = [os.path.join(folder, file.path) for file in list_files(folder, ".parquet")]
    try:
        return sum(pq.read_metadata(path).num_rows for path in paths)
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{folder}: what was written there cannot be read back: {exc}") from exc
