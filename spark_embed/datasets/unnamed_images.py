"""Images that lie beside a table of paths: which of them no row names; reads the paths alone, no image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.datasets.detection.first_rows import texts_of
from spark_embed.datasets.detection.not_used import NotUsed
from spark_embed.datasets.detection.seen import is_image
from spark_embed.datasets.image_types import is_bytes, is_hugging_face
from spark_embed.datasets.parquet import ParquetSource
from spark_embed.errors import StorageError
from spark_embed.inference.fetch.rows import IMAGE_PATH
from spark_embed.storage import (
    is_s3,
    joined_path,
    local_path,
    parquet_input,
    rows_per_batch,
    shown_path,
    split_s3,
    walk_files,
)

NOT_NAMED = "images that no row names"

MAX_ROWS = 5_000_000
"""So many paths take the driver some twenty seconds, at each start of a run."""

_AT_ONCE = 50_000
_BATCH_BYTES = 16 << 20
_PATH_CHARS = 4096  # what is longer is no path on Linux, but an image written out as text


def find_not_named(source: ParquetSource) -> NotUsed:
    """Count the images below the input folder that no row names; runs on the driver.

    Args:
        source: the table, or its index; all of it can be read.

    Raises:
        StorageError: a folder cannot be listed.
    """
    root, not_named = source.root, NotUsed()
    absolute = partial(_absolute, source.root, root if is_s3(root) else os.path.realpath(root))
    # Eight bytes a path, as there may be millions of them.
    named = np.unique(np.fromiter((hash(absolute(*named)) for named in _named(source)), np.int64))
    images = (file.path for file in walk_files(root) if not file.unlisted and is_image(file.path))
    while some := list(islice(images, _AT_ONCE)):
        hashes = np.fromiter((hash(absolute(path, root)) for path in some), np.int64, len(some))
        places = np.searchsorted(named, hashes)
        is_named = places < len(named)
        is_named[is_named] = named[places[is_named]] == hashes[is_named]
        for index in np.flatnonzero(~is_named):
            not_named.add(NOT_NAMED, shown_path(some[index]))
    return not_named


def _named(source: ParquetSource) -> Iterator[tuple[str, str]]:
    """Yield (path, folder from which it starts) of each row that names one."""
    column = source.image_column
    for shard in source.shards:
        if column not in shard.schema.names or is_bytes(shard.schema.field(column).type):
            continue
        path = joined_path(source.folder, shard.path)
        with suppress(OSError, StorageError, pa.ArrowException):  # that is its wave's to say
            for uri, base in _places(path, shard.schema, column):
                yield local_path(uri) or uri, base


def _places(path: str, schema: pa.Schema, column: str) -> Iterator[tuple[str, str]]:
    """Yield (uri, folder from which it starts) of each row of a parquet file that has one."""
    kind = schema.field(column).type
    is_index = pa.types.is_struct(kind) and not is_hugging_face(kind)
    fields = ("uri", "base") if is_index else (IMAGE_PATH,) if pa.types.is_struct(kind) else ()
    with pq.ParquetFile(parquet_input(path)) as file:
        columns = [f"{column}.{name}" for name in fields] or [column]
        n_rows = rows_per_batch(file, _BATCH_BYTES, _AT_ONCE, columns=columns)
        for batch in file.iter_batches(n_rows, columns=columns):
            values = batch.column(0)
            uris = texts_of(values.field(fields[0]) if fields else values)
            bases = texts_of(values.field("base")) if is_index else [os.path.dirname(path)] * len(uris)
            for uri, base in zip(uris, bases, strict=True):
                if uri and len(uri) <= _PATH_CHARS:
                    yield uri.strip(), base or ""


def _absolute(root: str, real_root: str, path: str, folder: str) -> str:
    """Return a path such that equal ones name one file, but for links below the root."""
    joined = joined_path(folder, path)
    if is_s3(joined):
        return "s3://" + "/".join(split_s3(joined))
    path = os.path.normpath(joined)
    return real_root + path[len(root) :] if path.startswith(f"{root}/") else path
