"""Rows of errors.parquet, as examples of their codes; reads no more of it than it takes to find them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spark_embed.errors import StorageError
from spark_embed.output.folder import Output
from spark_embed.output.records import PublishedFile
from spark_embed.schema import ERROR, ERROR_DETAIL, ERRORS_NAME, IMAGE_ID, SHARD, SHARD_ROW
from spark_embed.storage import parquet_input


class ErrorRow(NamedTuple):
    """A row without a result; `image_id` is shard#row where the data set has none."""

    image_id: str
    error_detail: str | None
    shard: str
    shard_row: int


def read_error_rows(
    output: Output, files: Iterable[PublishedFile], codes: Iterable[str], n_examples: int
) -> dict[str, list[ErrorRow]]:
    """Return the first few rows with each of these codes.

    Args:
        output: the places of the output.
        files: of errors.parquet.
        codes: to look for.
        n_examples: of each code.

    Raises:
        StorageError: it cannot be read.
    """
    found: dict[str, list[ErrorRow]] = {code: [] for code in codes}
    try:
        for file in files:
            with pq.ParquetFile(parquet_input(output.data_path(ERRORS_NAME, file.name))) as opened:
                names = opened.schema_arrow.names
                id_column = IMAGE_ID if IMAGE_ID in names else names[0]  # a table's
                columns = [id_column, ERROR_DETAIL, SHARD, SHARD_ROW, ERROR]
                for batch in opened.iter_batches(columns=columns):
                    _add(found, batch.select(columns), n_examples)
                    if all(len(examples) == n_examples for examples in found.values()):
                        return found
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{output.table(ERRORS_NAME)}: cannot be read back: {exc}") from exc
    return found


def _add(found: dict[str, list[ErrorRow]], batch: pa.RecordBatch, n_examples: int) -> None:
    codes = batch.column(4)
    for code, examples in found.items():
        if wanted := n_examples - len(examples):
            rows = batch.filter(pc.equal(codes, code)).slice(0, wanted)
            columns = [rows.column(place).to_pylist() for place in range(4)]
            for image_id, detail, shard, row in zip(*columns, strict=True):
                named = f"{shard}#{row}" if image_id is None else str(image_id)
                examples.append(ErrorRow(named, detail, shard, row))
