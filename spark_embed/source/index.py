"""An index: the table of references of what is not parquet, as parquet; made once and kept with the run.

One file for each tar, list or folder, with the data set's own columns and three of ours: the row's shard,
its number there, and where its image is. From there on they are shards like any other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from spark_embed.schema import INDEX_COLUMNS
from spark_embed.source.detect import FILES, FOLDER, LISTS, TARS, Layout
from spark_embed.source.folders import index_files, index_folder, index_list
from spark_embed.source.indexing import IndexTask, Rows
from spark_embed.source.shards import Shard, open_shards
from spark_embed.source.tars import index_tar
from spark_embed.storage import StoredFile, delete, list_names
from spark_embed.tables import count_slots
from spark_embed.tasks import run_tasks

# Spark cuts tasks between row groups; a thousand images are seconds of work, not minutes.
_ROWS_PER_GROUP = 1000
_FORMAT = 1  # of the index files; another one makes them anew
_FACTS = b"spark_embed"

_MAKERS: dict[str, Callable[[IndexTask], Iterator[Rows]]] = {
    TARS: index_tar,
    FILES: index_files,
    FOLDER: index_folder,
    LISTS: index_list,
}


@dataclass(frozen=True)
class Index:
    """The index of a data set.

    Attributes:
        folder: where its files are.
        shards: the files, in the order of the data set; their schema leaves out columns that no row fills.
        image_bytes: of all images together, as far as known.
    """

    folder: str
    shards: tuple[Shard, ...]
    image_bytes: int


def make_index(
    spark: SparkSession, layout: Layout, folder: str, url_column: str, max_rows: int | None
) -> Index:
    """Make what is missing of an index below `folder`; runs on the executors, a task for each file.

    A file that has not changed since is not read again. With `max_rows` only the first files are indexed,
    as many as hold that many rows.

    Raises:
        ConfigError, StorageError: a file cannot be used; the text names it.
    """
    tasks = _tasks(layout, url_column, max_rows)
    names = [_file_name(task) for task in tasks]
    targets = [os.path.join(folder, name) for name in names]
    os.makedirs(folder, exist_ok=True)
    for stale in set(list_names(folder)) - set(names):
        delete(os.path.join(folder, stale))
    n_slots, _ = count_slots(spark)
    step = len(tasks) if max_rows is None else n_slots
    n_done = n_rows = 0
    while n_done < len(tasks) and (max_rows is None or n_rows < max_rows):
        part = range(n_done, min(n_done + step, len(tasks)))
        missing = [(tasks[i], targets[i]) for i in part if not os.path.exists(targets[i])]
        if missing:
            run_tasks(spark, write_index, missing)
        n_rows += sum(pq.read_metadata(targets[i]).num_rows for i in part)
        n_done = part.stop
    return _open(folder, names[:n_done])


def write_index(job: tuple[IndexTask, str]) -> None:
    """Write one file of an index to a path, where it appears when it is whole. Runs on an executor."""
    task, target = job
    staged = f"{target}.{os.getpid()}.tmp"
    filled: set[str] = set()
    image_bytes = n_rows = 0
    writer: pq.ParquetWriter | None = None
    try:
        for rows in _MAKERS[task.layout](task):
            table = rows.table.slice(0, None if task.max_rows is None else task.max_rows - n_rows)
            writer = writer or pq.ParquetWriter(staged, table.schema)
            writer.write_table(table, row_group_size=_ROWS_PER_GROUP)
            filled |= {name for name in table.column_names if table[name].null_count < len(table)}
            image_bytes, n_rows = image_bytes + rows.image_bytes, n_rows + len(table)
            if n_rows == task.max_rows:
                break
        if writer is None:
            raise RuntimeError(f"{task.layout}: an index without columns")
        facts = {"filled": sorted(filled), "image_bytes": image_bytes}
        writer.add_key_value_metadata({_FACTS: json.dumps(facts).encode()})
        writer.close()
        os.replace(staged, target)
    finally:
        if writer is not None:
            writer.close()
        with suppress(FileNotFoundError):
            os.unlink(staged)


def _tasks(layout: Layout, url_column: str, max_rows: int | None) -> list[IndexTask]:
    if layout.name == FOLDER:
        folder = StoredFile(".", 0)
        return [IndexTask(FOLDER, layout.root, folder, has_labels=layout.has_labels, max_rows=max_rows)]
    return [
        IndexTask(
            layout.name, layout.root, file, layout.sidecars.get(file.path), url_column, max_rows=max_rows
        )
        for file in layout.files
    ]


def _file_name(task: IndexTask) -> str:
    """Return a name that another content has not; a folder is walked anew each time."""
    salt = os.urandom(8).hex() if task.layout == FOLDER else ""
    text = json.dumps([_FORMAT, astuple(task), salt])  # in ASCII, whatever a path holds
    return hashlib.sha256(text.encode()).hexdigest()[:32] + ".parquet"


def _open(folder: str, names: Sequence[str]) -> Index:
    files = [StoredFile(name, os.path.getsize(os.path.join(folder, name))) for name in names]
    facts = [json.loads(pq.read_metadata(os.path.join(folder, name)).metadata[_FACTS]) for name in names]
    filled = set(INDEX_COLUMNS).union(*(fact["filled"] for fact in facts))
    shards = [
        Shard(
            shard.path,
            shard.n_bytes,
            shard.n_rows,
            pa.schema([field for field in shard.schema if field.name in filled]),
        )
        for shard in open_shards(folder, files)
    ]
    return Index(folder, tuple(shards), sum(fact["image_bytes"] for fact in facts))
