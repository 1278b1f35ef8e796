"""The index of an image folder: groups of about a thousand images, each a shard like any other.

A group is a range of the folder's images in the order of their paths. Where it begins is kept, so a later run
cuts the folder at the same places: an image that is new, gone or another than it was gives its group another
version, and no other. A group that has grown to twice its size is cut; one without images stays, empty.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
from pyspark.sql import SparkSession

from spark_embed.datasets.delimited import STANDARD
from spark_embed.datasets.detection.detect import Layout
from spark_embed.datasets.detection.seen import is_image
from spark_embed.datasets.index.folder_metadata import FolderMetadata, read_metadata
from spark_embed.datasets.index.make import Index, write_index
from spark_embed.datasets.index.rows import Place, Rows, make_rows
from spark_embed.datasets.shards import Shard, read_footer
from spark_embed.errors import ResumeError, StorageError
from spark_embed.schema import IMAGE_ID
from spark_embed.spark.tasks import run_tasks
from spark_embed.storage import (
    StoredFile,
    delete,
    file_version,
    is_s3,
    list_names,
    make_folder,
    read_json,
    replaced_file,
    shown_path,
    stat,
    walk_files,
    write_text,
)

IMAGES_PER_GROUP = 1000
LABEL = "label"

_LIST = "groups.json"
_WRITTEN_AT_ONCE = 16
_VERSION_CHARS = 16


class Group(NamedTuple):
    """Some images of a folder.

    Attributes:
        name: the shard in the outputs; no other group ever has it.
        first: the path where its range begins; "" for the first group's. That of the next group ends it.
        version: of its images, by what a listing says of them.
        n_rows: images; one that metadata names several times counts as often.
        n_bytes: of its index file.
        image_bytes: of all its images.
    """

    name: str
    first: str
    version: str
    n_rows: int
    n_bytes: int
    image_bytes: int

    @property
    def file(self) -> str:
        """The name of its index file: another content is another file."""
        return f"{self.name}-{self.version}.parquet"


@dataclass(frozen=True)
class FolderTask:
    """What a walk through an image folder needs to know.

    Attributes:
        root: the image folder.
        folder: of the index.
        groups: those that there are, in order.
        n_names: how many names of groups have been given.
        has_labels: the first folder of an image's path is its label.
        max_rows: where to stop.
        metadata: Hugging Face's files below `root`.
        quoting: of the lists among them.
    """

    root: str
    folder: str
    groups: tuple[Group, ...]
    n_names: int
    has_labels: bool
    max_rows: int | None
    metadata: tuple[str, ...] = ()
    quoting: str = STANDARD


def make_folder_index(
    spark: SparkSession, layout: Layout, folder: str, max_rows: int | None, quoting: str = STANDARD
) -> Index:
    """Bring the index of an image folder up to date; runs on an executor, in one task.

    The list of groups is written last: what an attempt has written beside it counts as nothing.

    Raises:
        ResumeError: the list is broken.
        ConfigError: metadata has columns that cannot be used, or a quote that is not closed.
        StorageError: a folder cannot be listed, metadata not be read, or the index not be written.
    """
    known = _read_list(folder)
    has_labels = known["has_labels"] if known["groups"] else layout.has_labels
    groups = tuple(Group(*values) for values in known["groups"])
    make_folder(folder)
    metadata = tuple(file.path for file in layout.metadata)
    task = FolderTask(layout.root, folder, groups, known["n_names"], has_labels, max_rows, metadata, quoting)
    (found,) = run_tasks(spark, update_groups, [task])
    now = {"has_labels": has_labels, **found}
    if now != known:
        # In ASCII: a path may hold bytes that are no text.
        write_text(os.path.join(folder, _LIST), json.dumps(now))
    groups = tuple(Group(*values) for values in found["groups"])
    for name in set(list_names(folder)) - {_LIST, *(group.file for group in groups)}:
        delete(os.path.join(folder, name))
    schema = read_footer(os.path.join(folder, groups[0].file)).schema
    shards = [
        Shard(one.file, one.n_bytes, one.n_rows, schema, one.name, one.version, group_rows=one.n_rows)
        for one in groups
    ]
    return Index(folder, tuple(shards), (), sum(group.image_bytes for group in groups))


def _read_list(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, _LIST)
    try:
        known = read_json(path)
    except StorageError as exc:
        if isinstance(exc.__cause__, OSError):
            raise
        known = ()
    if known is None:
        return {"groups": [], "n_names": 0}
    if not isinstance(known, dict) or not {"groups", "n_names", "has_labels"} <= known.keys():
        raise ResumeError(f"{path}: is broken; start anew with --overwrite")
    return known


def update_groups(task: FolderTask) -> dict[str, Any]:
    """Walk through the folder and write the index files of the groups that are not what they were.

    Returns:
        `groups`, in order, as lists of `Group`'s fields; `n_names`.
    """
    n_names = task.n_names
    groups: list[Group] = []
    metadata = read_metadata(task.root, task.metadata, task.quoting) if task.metadata else FolderMetadata()
    cut = _cut(_images(task, metadata), task.groups, _order_of(task.root))
    with ThreadPoolExecutor(_WRITTEN_AT_ONCE) as pool:
        while some := list(islice(cut, _WRITTEN_AT_ONCE)):  # not all of a large folder in memory
            named = []
            for known, images in some:
                name = known.name if known else f"images-{n_names:06d}"
                n_names += known is None
                named.append((name, known, images))
            groups += pool.map(lambda one: _write_group(task, metadata, *one), named)
    if groups:
        groups[0] = groups[0]._replace(first="")
    return {"groups": [list(group) for group in groups], "n_names": n_names}


def _images(task: FolderTask, metadata: FolderMetadata) -> Iterator[StoredFile]:
    files = walk_files(task.root, in_order=True)
    images = (file for file in files if is_image(file.path) and not file.unlisted)
    return islice(metadata.with_missing(images, _order_of(task.root)), task.max_rows)


def _order_of(root: str) -> Callable[[str], Any]:
    """Return the key of the order in which paths are walked: S3's keys, or one folder after the other."""
    return str.encode if is_s3(root) else lambda path: path.split("/")


def _cut(
    images: Iterator[StoredFile], groups: Sequence[Group], order: Callable[[str], Any]
) -> Iterator[tuple[Group | None, list[StoredFile]]]:
    """Yield the images of each group in order; those of new ones, as None, where one has grown too large."""
    ends = [order(group.first) for group in groups[1:]]
    image = next(images, None)
    for number, group in enumerate(groups or [None]):
        end = ends[number] if number < len(ends) else None
        known: Group | None = group
        inside: list[StoredFile] = []
        while image is not None and (end is None or order(image.path) < end):
            inside.append(image)
            image = next(images, None)
            if len(inside) == 2 * IMAGES_PER_GROUP:
                yield known, inside[:IMAGES_PER_GROUP]
                known, inside = None, inside[IMAGES_PER_GROUP:]
        yield known, inside


def _write_group(
    task: FolderTask, metadata: FolderMetadata, name: str, known: Group | None, images: Sequence[StoredFile]
) -> Group:
    """Return a group as it is now; its index file is written unless nothing has changed."""
    digest = hashlib.sha256()
    for image in images:
        version = file_version(image.n_bytes, image.modified_ns, image.etag)
        digest.update(f"{image.path}\0{version}\n".encode(errors="surrogateescape"))
    digest.update(metadata.version(images).encode(errors="surrogateescape"))
    version = digest.hexdigest()[:_VERSION_CHARS]
    if known and known.version == version:
        return known
    first = known.first if known else images[0].path if images else ""
    image_bytes = sum(image.n_bytes for image in images)
    table = _index_rows(task, metadata, name, images)
    group = Group(name, first, version, len(table), 0, image_bytes)
    path = os.path.join(task.folder, group.file)
    with replaced_file(path) as staged:
        write_index([Rows(table, image_bytes)], staged)
    return group._replace(n_bytes=stat(path).n_bytes)


def _index_rows(
    task: FolderTask, metadata: FolderMetadata, name: str, images: Sequence[StoredFile]
) -> pa.Table:
    rows = metadata.rows_of(images)
    paths = [shown_path(image.path) for image, _ in rows]
    own = {IMAGE_ID: pa.array(paths, pa.string())}
    if task.has_labels:
        labels = [path.split("/")[0] if "/" in path else None for path in paths]
        own[LABEL] = pa.array(labels, pa.string())
    if metadata.columns.num_columns:
        columns = metadata.take([row for _, row in rows])
        own |= {column: columns[column] for column in columns.column_names}
    places: list[Place | None] = [
        {"uri": os.fsencode(os.path.join(task.root, image.path))} for image, _ in rows
    ]
    return make_rows(pa.table(own), name, 0, places).table
