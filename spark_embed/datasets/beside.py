"""Images that lie beside a table of paths: which of them no row names; reads the paths alone, no image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.datasets.first_rows import texts_of
from spark_embed.datasets.image_types import is_bytes, is_hugging_face
from spark_embed.datasets.not_used import NotUsed
from spark_embed.datasets.seen import is_image
from spark_embed.datasets.shards import Shard
from spark_embed.errors import StorageError
from spark_embed.inference.fetch.rows import IMAGE_PATH
from spark_embed.storage import (
    is_s3,
    joined_path,
    local_path,
    parquet_input,
    shown_path,
    split_s3,
    walk_files,
)

NOT_NAMED = "images that no row names"

_AT_ONCE = 50_000


def find_not_named(root: str, folder: str, shards: Sequence[Shard], column: str) -> NotUsed:
    """Count the images below the input folder that no row names; runs on the driver.

    Args:
        root: the input folder.
        folder: that of the table: `root`, or of its index.
        shards: the table, or its index.
        column: of urls and paths, of Hugging Face's images or of an index's references.

    Raises:
        StorageError: a folder cannot be listed.
    """
    # Eight bytes a path, as there may be many millions of them.
    named = np.unique(np.fromiter(map(hash, _named(folder, shards, column)), np.int64))
    not_named = NotUsed()
    images = (file.path for file in walk_files(root) if not file.unlisted and is_image(file.path))
    while some := list(islice(images, _AT_ONCE)):
        hashes = np.fromiter((hash(_absolute(root, path)) for path in some), np.int64, len(some))
        places = np.searchsorted(named, hashes)
        is_named = places < len(named)
        is_named[is_named] = named[places[is_named]] == hashes[is_named]
        for index in np.flatnonzero(~is_named):
            not_named.add(NOT_NAMED, shown_path(some[index]))
    return not_named


def _named(folder: str, shards: Sequence[Shard], column: str) -> Iterator[str]:
    """Yield the path that each row names, if it does."""
    for shard in shards:
        if column not in shard.schema.names or is_bytes(shard.schema.field(column).type):
            continue
        path = joined_path(folder, shard.path)
        with suppress(OSError, StorageError, pa.ArrowException):  # that is its wave's to say
            for uri, base in _places(path, shard.schema, column):
                yield _absolute(base, local_path(uri) or uri)


def _places(path: str, schema: pa.Schema, column: str) -> Iterator[tuple[str, str]]:
    """Yield (uri, folder from which it starts) of each row of a parquet file that has one."""
    kind = schema.field(column).type
    is_index = pa.types.is_struct(kind) and not is_hugging_face(kind)
    fields = ("uri", "base") if is_index else (IMAGE_PATH,) if pa.types.is_struct(kind) else ()
    with pq.ParquetFile(parquet_input(path)) as file:
        for batch in file.iter_batches(_AT_ONCE, columns=[f"{column}.{name}" for name in fields] or [column]):
            values = batch.column(0)
            uris = texts_of(values.field(fields[0]) if fields else values)
            bases = texts_of(values.field("base")) if is_index else [os.path.dirname(path)] * len(uris)
            yield from ((uri.strip(), base or "") for uri, base in zip(uris, bases, strict=True) if uri)


def _absolute(folder: str, path: str) -> str:
    """Return a path such that equal ones name one file, but for links."""
    joined = joined_path(folder, path)
    return "s3://" + "/".join(split_s3(joined)) if is_s3(joined) else os.path.normpath(joined)
