"""A complete wave -> right-sized embeddings.parquet and errors.parquet; needs no model."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from spark_embed.errors import StorageError
from spark_embed.merge import Merge, merge_files
from spark_embed.output import EMBEDDINGS_NAME, ERRORS_NAME, Output
from spark_embed.schema import EMBEDDING, ERROR, ERROR_DETAIL, IMAGE_ID, RESULT, VECTOR_SPARK_TYPE
from spark_embed.storage import StoredFile, delete, list_files, move
from spark_embed.tasks import run_tasks

_N_EXAMPLES = 3


@dataclass(frozen=True)
class Published:
    """What two folders of parquet files hold, by their footers."""

    n_embedded: int
    n_errors: int
    n_files: int
    n_bytes: int


def stage(
    spark: SparkSession, schema: T.StructType, output: Output, n_rows: int, file_bytes: int
) -> Published:
    """Write both data sets beside the published ones, in files of about `file_bytes` each.

    Files of the wave, whose rows have this schema, are put together and cut by rows: no shuffle, and the
    model has run already.

    Raises:
        StorageError: what was written cannot be read back.
    """
    embeddings, errors = (os.path.join(output.staged, name) for name in (EMBEDDINGS_NAME, ERRORS_NAME))
    files = list_files(output.wave, ".parquet")
    n_files = max(1, math.ceil(sum(file.n_bytes for file in files) / file_bytes))
    merges = [
        Merge(
            tuple(os.path.join(output.wave, file.path) for file in group),
            embeddings,
            errors,
            name=f"part-{number:05d}-{output.attempt}",
            rows_per_file=math.ceil(n_rows / n_files),
            metadata=_file_metadata(spark, schema),
            keep_empty=number == 0,
        )
        for number, group in enumerate(_grouped(files, n_files))
    ]
    run_tasks(spark, merge_files, merges)
    written = list_files(embeddings, ".parquet")
    return Published(
        n_embedded=_count_rows(embeddings),
        n_errors=_count_rows(errors),
        n_files=len(written),
        n_bytes=sum(file.n_bytes for file in written),
    )


def publish(output: Output) -> None:
    """Put the staged data sets in the place of the published ones.

    metadata.json goes first and comes back last, so that it never describes other files.
    """
    delete(output.metadata)
    for name, published in ((EMBEDDINGS_NAME, output.embeddings), (ERRORS_NAME, output.errors)):
        delete(published)
        move(os.path.join(output.staged, name), published)


def read_error_examples(output: Output, codes: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """Return the first few rows of errors.parquet with each of these codes: image_id and error_detail.

    Raises:
        StorageError: it cannot be read.
    """
    found: dict[str, list[dict[str, str]]] = {code: [] for code in codes}
    try:
        for file in list_files(output.errors, ".parquet"):
            with pq.ParquetFile(os.path.join(output.errors, file.path)) as opened:
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


def _grouped(files: Sequence[StoredFile], n_groups: int) -> list[list[StoredFile]]:
    """Cut the files, in their order, into at most so many groups of about the same bytes."""
    share = sum(file.n_bytes for file in files) / n_groups
    groups: list[list[StoredFile]] = [[]]
    n_bytes = 0
    for file in files:
        if n_bytes >= share * len(groups):
            groups.append([])
        groups[-1].append(file)
        n_bytes += file.n_bytes
    return groups


def _file_metadata(spark: SparkSession, schema: T.StructType) -> tuple[dict[str, str], dict[str, str]]:
    """Return what Spark writes into the footers of the two data sets, so that it reads its own types back.

    Without its version Spark would not know by which calendar old dates are stored.
    """
    own = [field for field in schema if field.name != RESULT]
    good = [*own, T.StructField(EMBEDDING, VECTOR_SPARK_TYPE)]
    bad = [*own, T.StructField(ERROR, T.StringType()), T.StructField(ERROR_DETAIL, T.StringType())]
    version = {"org.apache.spark.version": spark.version}
    return (
        {**version, "org.apache.spark.sql.parquet.row.metadata": T.StructType(good).json()},
        {**version, "org.apache.spark.sql.parquet.row.metadata": T.StructType(bad).json()},
    )


def _count_rows(folder: str) -> int:
    paths = [os.path.join(folder, file.path) for file in list_files(folder, ".parquet")]
    try:
        return sum(pq.read_metadata(path).num_rows for path in paths)
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{folder}: what was written there cannot be read back: {exc}") from exc
