"""Indices of images that are files: a folder of them, img2dataset's folders, and lists of urls."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

import pyarrow as pa

from spark_embed.datasets.detect import IMAGE_SUFFIXES
from spark_embed.datasets.index.rows import ROWS_PER_BATCH, IndexTask, Place, Rows, make_rows
from spark_embed.datasets.index.sidecar import join_sidecar
from spark_embed.datasets.lists import read_list
from spark_embed.storage import file_version, list_names, walk_files

LABEL = "label"


def index_folder(root: str, *, has_labels: bool) -> Iterator[Rows]:
    """Yield the images below a folder, at least once: each is the one row of a shard that its path names.

    Args:
        root: the folder.
        has_labels: the first folder of an image's path is its label.
    """
    files = (file for file in walk_files(root) if file.path.lower().endswith(IMAGE_SUFFIXES))
    batch = list(islice(files, ROWS_PER_BATCH))
    while True:
        paths = [_as_text(file.path) for file in batch]
        places: list[Place | None] = [
            {
                **_file_place(os.path.join(root, file.path)),
                "version": file_version(file.n_bytes, file.modified_ns, file.etag),
            }
            for file in batch
        ]
        labels = pa.table({LABEL: [path.split("/")[0] for path in paths]})
        rows = make_rows(labels if has_labels else labels.select([]), paths, 0, places)
        yield Rows(rows.table, sum(file.n_bytes for file in batch))
        if not (batch := list(islice(files, ROWS_PER_BATCH))):
            return


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
    for batch in read_list(task.path):
        own = pa.Table.from_batches([batch])
        urls = batch.column(task.url_column).to_pylist() if task.url_column in batch.schema.names else []
        urls += [None] * (len(own) - len(urls))
        places = [{"uri": url.encode(), "base": base} if url else None for url in urls]
        yield make_rows(own, task.file.path, first, places)
        first += len(own)


def _file_place(path: str) -> Place:
    return {"uri": os.fsencode(path)}


def _as_text(path: str) -> str:
    """Return the path as UTF-8 can hold it: a byte that is none becomes a question mark."""
    return os.fsencode(path).decode(errors="replace")
