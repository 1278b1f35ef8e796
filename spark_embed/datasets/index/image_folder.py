"""The index of an image folder: a file for each time that images were new, and a list of what is void by it.

Every image is a shard of its own, too small to be kept account of one by one. So a later run walks the
folder again and writes another index file, of the images that are new or have changed, beside a list
of the images whose earlier row is void: those that have changed, and with --prune those that are gone.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from spark_embed.datasets.detect import Layout
from spark_embed.datasets.index.files import index_folder
from spark_embed.datasets.index.make import Index, open_index, write_index
from spark_embed.datasets.index.rows import Rows
from spark_embed.schema import IMAGE, INDEX_SHARD
from spark_embed.spark.tasks import run_tasks
from spark_embed.storage import delete, exists, list_names, make_folder, parquet_input
from spark_embed.storage.staged import publish_file, staged_file

_VOID = ".void.parquet"
_SUFFIX = ".parquet"
_VERSION, _NUMBER = "version", "number"
_KEYS = [INDEX_SHARD, _VERSION]


@dataclass(frozen=True)
class FolderTask:
    """What a walk through an image folder needs to know.

    Attributes:
        root: the image folder.
        folder: of the index.
        earlier: the index files that there are, in order.
        target: the name of the one to write, if there is something to write.
        has_labels: the first folder of an image's path is its label.
        prune: images that are gone are void.
    """

    root: str
    folder: str
    earlier: tuple[str, ...]
    target: str
    has_labels: bool
    max_rows: int | None
    prune: bool


@dataclass(frozen=True)
class FolderIndex:
    """The index of an image folder.

    Attributes:
        index: the files.
        voided: names of the lists of void images, in order.
        n_voided: rows of the index files that are void.
        n_gone: images that were there once and whose rows are not void.
    """

    index: Index
    voided: tuple[str, ...]
    n_voided: int
    n_gone: int


def make_folder_index(
    spark: SparkSession, layout: Layout, folder: str, max_rows: int | None, *, prune: bool
) -> FolderIndex:
    """Bring the index of an image folder up to date; runs on an executor, in one task.

    With `max_rows` the first images are indexed once and for all.
    """
    earlier = _list_index(folder)
    n_gone = 0
    if not earlier or max_rows is None:
        target = f"{len(earlier):04d}-{secrets.token_hex(4)}{_SUFFIX}"
        make_folder(folder)
        task = FolderTask(layout.root, folder, earlier, target, layout.has_labels, max_rows, prune)
        ((walked, n_gone),) = run_tasks(spark, update_index, [task])
        for staged, name in walked:
            publish_file(os.path.join(folder, staged), os.path.join(folder, name))
    files = _list_index(folder)
    voided = tuple(name for name in map(void_name, files) if exists(os.path.join(folder, name)))
    n_voided = sum(pq.read_metadata(parquet_input(os.path.join(folder, name))).num_rows for name in voided)
    index = open_index(folder, [(name, name, "") for name in files])
    return FolderIndex(index, voided, n_voided, n_gone)


def void_name(index_file: str) -> str:
    """Return the name of the list of the images that are void by an index file."""
    return index_file.removesuffix(_SUFFIX) + _VOID


def later_voids(voided: Sequence[str], index_file: str) -> list[str]:
    """Return the lists of void images that are younger than an index file: those that its rows may be in.

    Names of both begin with the number of the walk that made them .
    """
    return [name for name in voided if _walk_number(name) > _walk_number(index_file)]


def _walk_number(name: str) -> int:
    return int(name.partition("-")[0])


def forget_unpublished(folder: str, published: Collection[str], voided: Collection[str]) -> None:
    """Delete the index files, and lists of void images, of a walk whose images will not be embedded.

    Args:
        folder: of the index.
        published: index files that the published files come from.
        voided: lists that these know of.

    Raises:
        StorageError: one cannot be deleted.
    """
    for name in _list_index(folder):
        if name not in published and void_name(name) not in voided:
            delete(os.path.join(folder, name))
    _list_index(folder)


def update_index(task: FolderTask) -> tuple[list[tuple[str, str]], int]:
    """Write what has changed since the earlier index files, for the driver to publish.

    What it has not published counts as nothing: of two attempts at a walk, which may have seen different
    images, one is chosen with all that it has found.

    Returns:
        (name now, name to be published under) of each file in the index's folder, in that order;
        how many images are gone and not void.
    """
    parts = index_folder(task.root, has_labels=task.has_labels)  # at least one, for its columns
    walked = _Walked(task.folder)
    if not task.earlier:
        with walked.file(task.target) as sink:
            write_index(parts, sink, task.max_rows)
        return walked.files, 0
    live = _read_live(task)
    images = pa.concat_tables([rows.table for rows in parts])
    there = _keys(images).append_column(_NUMBER, pa.array(range(len(images)), pa.int64()))
    changed = live.join(there, _KEYS, join_type="left anti")
    gone = changed.join(there, [INDEX_SHARD], join_type="left anti")
    void = changed if task.prune else changed.join(gone, [INDEX_SHARD], join_type="left anti")
    new = images.take(there.join(live, _KEYS, join_type="left anti")[_NUMBER].combine_chunks().sort())
    if len(void):
        with walked.file(void_name(task.target)) as sink:
            pq.write_table(void.select([INDEX_SHARD]), sink)
    if len(void) or len(new):
        with walked.file(task.target) as sink:
            write_index([Rows(new, _image_bytes(new))], sink)
    return walked.files, 0 if task.prune else len(gone)


class _Walked:
    """The files of one attempt at a walk, under names of its own until they are published.

    Attributes:
        files: (name now, name to be published under), in the folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._attempt = secrets.token_hex(4)
        self.files: list[tuple[str, str]] = []

    @contextmanager
    def file(self, name: str) -> Iterator[Any]:
        """Give what a file is written to."""
        staged = f"{name}.{self._attempt}"
        with staged_file(os.path.join(self._folder, staged), os.path.join(self._folder, name)) as sink:
            yield sink
        self.files.append((staged, name))


def _read_live(task: FolderTask) -> pa.Table:
    """Return the images of the earlier index files whose rows are not void, with their versions."""
    live: pa.Table | None = None
    for name in task.earlier:
        void = os.path.join(task.folder, void_name(name))
        if live is not None and exists(void):
            live = live.join(pq.read_table(parquet_input(void)), [INDEX_SHARD], join_type="left anti")
        keys = _keys(
            pq.read_table(parquet_input(os.path.join(task.folder, name)), columns=[INDEX_SHARD, IMAGE])
        )
        live = keys if live is None else pa.concat_tables([live, keys])
    if live is None:
        raise RuntimeError("no earlier index file")
    return live


def _keys(images: pa.Table) -> pa.Table:
    versions = [pc.struct_field(chunk, _VERSION) for chunk in images[IMAGE].chunks]
    return pa.table({INDEX_SHARD: images[INDEX_SHARD], _VERSION: pa.chunked_array(versions, pa.string())})


def _image_bytes(images: pa.Table) -> int:
    """Return the bytes of all images together: their versions begin with them (`file_version`)."""
    return sum(int(version.partition("-")[0]) for version in _keys(images)[_VERSION].to_pylist())


def _list_index(folder: str) -> tuple[str, ...]:
    """Return the index files in order; delete what an unfinished run left beside them."""
    names = list_names(folder)
    files = tuple(name for name in names if name.endswith(_SUFFIX) and not name.endswith(_VOID))
    for name in set(names) - {*files, *map(void_name, files)}:
        delete(os.path.join(folder, name))
    return files
