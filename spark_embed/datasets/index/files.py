"""Indices of images that are files: img2dataset's folders, and lists of urls."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa

from spark_embed.datasets.detect import IMAGE_SUFFIXES
from spark_embed.datasets.index.rows import IndexTask, Place, Rows, make_rows
from spark_embed.datasets.index.sidecar import join_sidecar
from spark_embed.datasets.lists import read_list
from spark_embed.storage import list_names


def index_files(task: IndexTask) -> Iterator[Rows]:
    """Yield the rows of an img2dataset parquet, each with the image of its key in the folder beside it."""
    shard = os.path.splitext(task.file.path)[0]
    folder = os.path.join(task.root, shard)
    places: dict[str, list[Place]] = {}
    for name in list_names(folder):
        if name.lower().endswith(IMAGE_SUFFIXES):
            places.setdefault(os.path.splitext(name)[0], []).append(_file_place(os.path.join(folder, name)))
    yield from join_sidecar(task.path, shard, places)


def index_list(task: IndexTask) -> Iterator[Rows]:
    """Yield the rows of a list of urls; relative paths start from the list's folder."""
    base, first = os.path.dirname(task.path), 0
    for batch in read_list(task.path, task.url_column, task.quoting):
        own = pa.Table.from_batches([batch])
        urls = batch.column(task.url_column).to_pylist() if task.url_column in batch.schema.names else []
        urls += [None] * (len(own) - len(urls))
        places = [{"uri": url.encode(), "base": base} if url else None for url in urls]
        yield make_rows(own, task.file.path, first, places)
        first += len(own)


def _file_place(path: str) -> Place:
    return {"uri": os.fsencode(path)}
