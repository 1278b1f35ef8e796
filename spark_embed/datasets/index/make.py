"""An index: the table of references of what is not parquet, as parquet; made once and kept with the run.

One file for each tar, list or folder of img2dataset, with the data set's own columns and three of ours: the
row's shard, its number there, and where its image is. From there on they are shards like any other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.datasets.delimited import STANDARD
from spark_embed.datasets.detection.detect import FILES, LISTS, TARS, Layout
from spark_embed.datasets.detection.not_used import NotUsed
from spark_embed.datasets.index.files import index_files, index_list, index_table
from spark_embed.datasets.index.rows import IndexTask, Rows
from spark_embed.datasets.index.tars import index_tar
from spark_embed.datasets.shards import BadShard, Shard, read_footer
from spark_embed.errors import NoSpaceError, StorageError
from spark_embed.schema import INDEX_COLUMNS
from spark_embed.spark.session import Session
from spark_embed.spark.settings import count_slots
from spark_embed.spark.tasks import run_tasks
from spark_embed.storage import (
    delete,
    is_store_failure,
    list_names,
    make_folder,
    parquet_input,
    replaced_file,
    stat,
)

_FORMAT = 3  # of the index files; another one makes them anew
_FACTS = b"spark_embed"

# Each counts what it leaves out.
_MAKERS: dict[str, Callable[[IndexTask, NotUsed], Iterator[Rows]]] = {
    TARS: index_tar,
    FILES: index_files,
    LISTS: index_list,
}


@dataclass(frozen=True)
class Index:
    """The index of a data set.

    Attributes:
        folder: where its files are.
        shards: the files, in the order of the data set; their schema leaves out columns that no row fills.
        bad: files of the data set that cannot be read.
        image_bytes: of all images together, as far as known.
        not_used: what is in the files and goes into no row.
    """

    folder: str
    shards: tuple[Shard, ...]
    bad: tuple[BadShard, ...]
    image_bytes: int
    not_used: NotUsed = field(default_factory=NotUsed)


def make_index(
    session: Session,
    layout: Layout,
    folder: str,
    url_column: str,
    max_rows: int | None,
    quoting: str = STANDARD,
) -> Index:
    """Make what is missing of an index below `folder`; runs on the executors, a task for each file.

    A file that has not changed since is not read again. With `max_rows` only the first files are indexed,
    as many as hold that many rows.

    Raises:
        ConfigError: a file cannot be used; the text names it.
    """
    tasks = _tasks(layout, folder, url_column, quoting, max_rows)
    names = [_file_name(task) for task in tasks]
    targets = [os.path.join(folder, name) for name in names]
    make_folder(folder)
    there = set(list_names(folder))
    for stale in there - {*names, *(os.path.basename(task.unpacked) for task in tasks)}:
        delete(os.path.join(folder, stale))
    step = len(tasks)
    if max_rows is not None and not all(name in there for name in names):
        step, _ = count_slots(session())
    bad: dict[int, BadShard] = {}
    n_done = n_rows = 0
    while n_done < len(tasks) and (max_rows is None or n_rows < max_rows):
        part = range(n_done, min(n_done + step, len(tasks)))
        missing = [i for i in part if names[i] not in there]
        reasons = (
            run_tasks(session(), _try_index, [(tasks[i], targets[i]) for i in missing]) if missing else []
        )
        bad |= {
            i: BadShard(tasks[i].name, reason) for i, reason in zip(missing, reasons, strict=True) if reason
        }
        n_rows += sum(pq.read_metadata(parquet_input(targets[i])).num_rows for i in part if i not in bad)
        n_done = part.stop
    opened = [(names[i], tasks[i].name, tasks[i].version) for i in range(n_done) if i not in bad]
    return open_index(folder, opened, tuple(bad.values()))


def _try_index(job: tuple[IndexTask, str]) -> str | None:
    """Write one file of an index to a path; return what is wrong with what it is made from, if anything is.

    Runs on an executor.
    """
    task, target = job
    try:
        with replaced_file(target) as staged:
            not_used = NotUsed()
            make = index_table if task.columns else _MAKERS[task.layout]
            write_index(make(task, not_used), staged, task.max_rows, not_used)
    except StorageError as exc:
        if is_store_failure(exc) or isinstance(exc, NoSpaceError):  # nothing is wrong with the file
            raise
        return str(exc)
    return None


def write_index(
    parts: Iterable[Rows], sink: Any, max_rows: int | None = None, not_used: NotUsed | None = None
) -> None:
    """Write one file of an index, of at most `max_rows` rows, to a path on this machine or an open file.

    Args:
        parts: its rows.
        sink: where to.
        max_rows: where to stop.
        not_used: what else there was; complete once the parts are at their end.
    """
    filled: set[str] = set()
    image_bytes = n_rows = 0
    writer: pq.ParquetWriter | None = None
    try:
        for rows in parts:
            table = rows.table.slice(0, None if max_rows is None else max_rows - n_rows)
            writer = writer or pq.ParquetWriter(sink, table.schema)
            writer.write_table(table, row_group_size=rows.group_rows)
            filled |= {name for name in table.column_names if table[name].null_count < len(table)}
            image_bytes, n_rows = image_bytes + rows.image_bytes, n_rows + len(table)
            if n_rows == max_rows:
                break
        if writer is None:
            raise RuntimeError("an index without columns")
        left_out = not_used.kinds if not_used else {}
        facts = {"filled": sorted(filled), "image_bytes": image_bytes, "not_used": left_out}
        writer.add_key_value_metadata({_FACTS: json.dumps(facts).encode()})
    finally:
        if writer is not None:
            writer.close()


def _tasks(
    layout: Layout, folder: str, url_column: str, quoting: str, max_rows: int | None
) -> list[IndexTask]:
    tasks = []
    for file in layout.files:
        sidecar = layout.sidecars.get(file.path)
        task = IndexTask(
            layout.name, layout.root, file, sidecar, url_column, quoting, max_rows, has_urls=layout.has_urls
        )
        task = replace(task, columns=layout.columns)
        if layout.name == TARS:
            unpacked = _name_of("unpacked", task.path, file.version) + ".tar"
            task = replace(task, unpacked=os.path.join(folder, unpacked))
        tasks.append(task)
    return tasks


def _file_name(task: IndexTask) -> str:
    """Return a name that another content has not."""
    seen = [(file.version, file.n_bytes, file.modified_ns) for file in (task.file, task.sidecar) if file]
    facts: list[Any] = [task.layout, task.path, seen, task.url_column, task.quoting, task.max_rows]
    facts += [] if task.has_urls else ["no urls"]
    facts += [list(task.columns)] if task.columns else []
    return _name_of(_FORMAT, *facts) + ".parquet"


def _name_of(*facts: object) -> str:
    """Return a name that other facts have not, in ASCII, whatever a path holds."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def open_index(folder: str, files: Sequence[tuple[str, str, str]], bad: tuple[BadShard, ...] = ()) -> Index:
    """Read the footers of index files: (name, what the data set calls it, its version)."""
    shards = []
    image_bytes = 0
    not_used = NotUsed()
    for file, name, version in files:
        path = os.path.join(folder, file)
        facts = json.loads(pq.read_metadata(parquet_input(path)).metadata[_FACTS])
        footer = read_footer(path)
        filled = {*INDEX_COLUMNS, *facts["filled"]}
        schema = pa.schema([field for field in footer.schema if field.name in filled])
        n_bytes = stat(path).n_bytes
        shards.append(
            Shard(file, n_bytes, footer.n_rows, schema, name, version, group_rows=footer.group_rows)
        )
        image_bytes += facts["image_bytes"]
        for kind, (number, example) in facts["not_used"].items():
            not_used.add(kind, example, number)
    return Index(folder, tuple(shards), bad, image_bytes, not_used)
