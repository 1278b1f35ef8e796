"""Indices of images that are files: img2dataset's folders, and lists of urls; and of tables of text."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa

from spark_embed.datasets.detection.not_used import NotUsed
from spark_embed.datasets.detection.seen import is_image
from spark_embed.datasets.index.rows import TABLE_ROWS_PER_GROUP, IndexTask, Place, Rows, make_rows
from spark_embed.datasets.index.sidecar import join_sidecar
from spark_embed.datasets.lists import read_list
from spark_embed.datasets.table_text import read_table
from spark_embed.storage import list_names, shown_path


def index_files(task: IndexTask, not_used: NotUsed) -> Iterator[Rows]:
    """Yield the rows of an img2dataset parquet, each with the image of its key in the folder beside it."""
    folder = os.path.splitext(task.path)[0]
    places: dict[str, list[Place]] = {}
    for name in list_names(folder):
        if is_image(name):
            key = shown_path(os.path.splitext(name)[0])
            places.setdefault(key, []).append({"uri": os.fsencode(os.path.join(folder, name))})
    yield from join_sidecar(task.path, task.name, places)


def index_list(task: IndexTask, not_used: NotUsed) -> Iterator[Rows]:
    """Yield the rows of a list, of urls if it has some; relative paths start from the list's folder."""
    base, first = os.fsencode(os.path.dirname(task.path)), 0
    for batch in read_list(task.path, task.url_column, task.quoting):
        own = pa.Table.from_batches([batch])
        urls = (
            batch.column(task.url_column).to_pylist()
            if task.has_urls and task.url_column in batch.schema.names
            else []
        )
        urls += [None] * (len(own) - len(urls))
        places = [{"uri": url.encode(), "base": base} if url else None for url in urls]
        yield make_rows(own, task.name, first, places)
        first += len(own)


def index_table(task: IndexTask, not_used: NotUsed) -> Iterator[Rows]:
    """Yield the rows of a table of text: its columns that are wanted, as they are, without any image."""
    batches: list[pa.RecordBatch] = []
    for batch in read_table(task.path, task.columns, task.quoting):
        batches.append(batch)
        if sum(map(len, batches)) >= TABLE_ROWS_PER_GROUP:
            yield Rows(pa.Table.from_batches(batches), 0, TABLE_ROWS_PER_GROUP)
            batches = []
    if batches:
        yield Rows(pa.Table.from_batches(batches), 0, TABLE_ROWS_PER_GROUP)
