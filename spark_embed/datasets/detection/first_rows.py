"""Images that lie beside a table which names them: one data set, not two layouts."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.datasets.delimited import STANDARD
from spark_embed.datasets.image_types import is_hugging_face, is_text
from spark_embed.datasets.lists import LIST_SUFFIXES, read_list
from spark_embed.errors import StorageError
from spark_embed.inference.fetch.inline_text import is_inline_text
from spark_embed.inference.fetch.rows import IMAGE_BYTES, IMAGE_PATH
from spark_embed.storage import parquet_input, uri_scheme

_ROWS = 100


def names_files(path: str, url_column: str, quoting: str = STANDARD) -> bool:
    """Say whether the first rows of a table name local files by relative paths.

    Args:
        path: of a parquet file or a list.
        url_column: its column of urls; a parquet file may have Hugging Face's images instead.
        quoting: of a list (--list_quoting).

    Raises:
        ConfigError: a quote of a list is not closed: nobody can say which rows it has.
        StorageError: a list cannot be read; of a parquet file that is told where it has to be read.
    """
    try:
        batch = _first_rows(path, url_column, quoting)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if is_hugging_face(column.type):
                paths = texts_of(column.field(IMAGE_PATH).filter(column.field(IMAGE_BYTES).is_null()))
                return any(map(_is_relative, paths))
            if name == url_column:
                return is_text(column.type) and any(map(_is_relative, texts_of(column)))
    except (OSError, pa.ArrowException, StopIteration):
        pass
    return False


def first_names_files(paths: Sequence[str], url_column: str, quoting: str) -> bool:
    """Say whether the first of some tables that can be read names local files; as `names_files`."""
    failure: StorageError | None = None
    for path in paths:
        try:
            return names_files(path, url_column, quoting)
        except StorageError as exc:
            failure = failure or exc
    if failure:
        raise failure
    return False


def _first_rows(path: str, url_column: str, quoting: str) -> pa.RecordBatch:
    if path.lower().endswith(LIST_SUFFIXES):
        return next(batch for batch in read_list(path, url_column, quoting) if len(batch))[:_ROWS]
    with pq.ParquetFile(parquet_input(path)) as file:
        return next(file.iter_batches(_ROWS))


def texts_of(column: pa.Array) -> list[str | None]:
    """Return the values of a column of text or of bytes that are one; what is no UTF-8 are surrogates."""
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return [text and os.fsdecode(text) for text in plain.cast(pa.large_binary()).to_pylist()]


def _is_relative(uri: object) -> bool:
    if not isinstance(uri, str) or not uri or uri_scheme(uri.strip()) or os.path.isabs(uri):
        return False
    return not is_inline_text(uri)
