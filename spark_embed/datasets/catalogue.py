"""What earlier runs learned of the data set's files: which content each had, and what its footer said.

So that a file that was replaced is known from one that was not, and no footer is read twice. Driver only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from spark_embed.datasets.pages import Pages
from spark_embed.errors import ResumeError, StorageError, one_line
from spark_embed.spark.settings import count_slots
from spark_embed.spark.tasks import run_tasks
from spark_embed.storage import StoredFile, exists, open_binary, parquet_input, replaced_file

_CHUNK_BYTES = 1 << 22
_TASKS_PER_SLOT = 8


class Entry(NamedTuple):
    """A file as it was last seen; `version` is that of its content, however often it was touched.

    From `n_rows` on, but for `etag`, it is what a parquet file's footer says, None until that has been read.
    """

    n_bytes: int
    modified_ns: int
    version: str
    sha256: str | None = None
    n_rows: int | None = None
    schema: pa.Schema | None = None
    etag: str | None = None
    odd_pages: Pages | None = None
    group_rows: int | None = None


@dataclass
class Catalogue:
    """The entries by path, relative to the input folder."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def identified(self, files: Iterable[StoredFile], hashes: Mapping[str, str]) -> list[StoredFile]:
        """Return the files with their versions, and remember them as they are now.

        A file has the content that it had if size and modification time are what they were; where there
        is a hash of it now and then, if the hashes are the same, whatever the time.
        """
        return [replace(file, version=self._version(file, hashes.get(file.path))) for file in files]

    def _version(self, file: StoredFile, sha256: str | None) -> str:
        known = self.entries.get(file.path)
        stat = f"{file.n_bytes}-{file.modified_ns}" + (f"-{file.etag}" if file.etag else "")
        if known is None:
            entry = Entry(file.n_bytes, file.modified_ns, stat, sha256)
        elif sha256 and known.sha256:
            same = sha256 == known.sha256
            # Another content of the same size and time needs a name of its own.
            entry = known if same else Entry(0, 0, f"{stat}-{sha256[:12]}", sha256)
        elif _is_same(file, known):
            entry = known._replace(sha256=sha256 or known.sha256)
        else:
            entry = Entry(0, 0, stat, sha256)
        self.entries[file.path] = entry._replace(
            n_bytes=file.n_bytes, modified_ns=file.modified_ns, etag=file.etag or None
        )
        return entry.version

    def set_footer(
        self, path: str, n_rows: int, schema: pa.Schema, odd_pages: Pages, group_rows: int
    ) -> None:
        """Remember what a parquet file's footer says."""
        entry = self.entries[path]
        self.entries[path] = entry._replace(
            n_rows=n_rows, schema=schema, odd_pages=odd_pages, group_rows=group_rows
        )


def _is_same(file: StoredFile, known: Entry) -> bool:
    """Say whether a file has the content that it had, by what a listing says of it.

    S3 gives equal ETags to equal contents only, so an object that was written once more is the same.
    """
    if file.etag and known.etag:
        return (file.n_bytes, file.etag) == (known.n_bytes, known.etag)
    return (file.n_bytes, file.modified_ns) == (known.n_bytes, known.modified_ns)


_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("n_bytes", pa.int64()),
        ("modified_ns", pa.int64()),
        ("version", pa.string()),
        ("sha256", pa.string()),
        ("n_rows", pa.int64()),
        ("schema", pa.dictionary(pa.int32(), pa.binary())),
        ("etag", pa.string()),
        ("odd_pages", pa.map_(pa.string(), pa.string())),
        ("group_rows", pa.int64()),
    ]
)
_SCHEMAS = _SCHEMA.get_field_index("schema")


def read_catalogue(path: str) -> Catalogue:
    """Read a catalogue; an empty one if there is no such file.

    Raises:
        ResumeError: it is broken, or not ours.
    """
    if not exists(path):
        return Catalogue()
    try:
        table = pq.read_table(parquet_input(path), schema=_SCHEMA)
        columns = [table[name].to_pylist() for name in _SCHEMA.names]
        known = {data: pa.ipc.read_schema(pa.py_buffer(data)) for data in set(columns[_SCHEMAS]) if data}
    except (OSError, pa.ArrowException) as exc:
        reason = one_line(exc, None)
        raise ResumeError(f"{path}: is broken ({reason}); delete it: footers are then read anew") from exc
    entries = {}
    for name, *values in zip(*columns, strict=True):
        entry = Entry(*values)
        pages = None if entry.odd_pages is None else tuple(entry.odd_pages)
        entries[name] = entry._replace(schema=known.get(entry.schema), odd_pages=pages)
    return Catalogue(entries)


def write_catalogue(catalogue: Catalogue, path: str) -> None:
    """Write a catalogue.

    Raises:
        StorageError: it cannot be written.
    """
    entries = [(name, *entry) for name, entry in catalogue.entries.items() if _is_text(name)]
    encoded: dict[pa.Schema, bytes] = {}
    columns: list[Any] = list(zip(*entries, strict=True)) or [[] for _ in _SCHEMA]
    columns[_SCHEMAS] = [
        schema and encoded.setdefault(schema, schema.serialize().to_pybytes()) for schema in columns[_SCHEMAS]
    ]
    arrays = [pa.array(values, one.type) for values, one in zip(columns, _SCHEMA, strict=True)]
    with replaced_file(path) as staged:
        pq.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA), staged)


def hash_shards(spark: SparkSession, root: str, files: Sequence[StoredFile]) -> dict[str, str]:
    """Return the sha256, in hex, of the files' contents, by path; runs on the executors (--verify_shards).

    Raises:
        StorageError: one of them cannot be read.
    """
    n_slots, _ = count_slots(spark)
    n_groups = min(len(files), n_slots * _TASKS_PER_SLOT)
    groups = [[os.path.join(root, file.path) for file in files[i::n_groups]] for i in range(n_groups)]
    hashed = run_tasks(spark, _hash_files, groups) if groups else []
    return {
        file.path: sha256
        for start, answer in enumerate(hashed)
        for file, sha256 in zip(files[start::n_groups], answer, strict=True)
    }


def _hash_files(paths: Sequence[str]) -> list[str]:
    return [_hash_file(path) for path in paths]


def _hash_file(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with open_binary(path) as file:
            while block := file.read(_CHUNK_BYTES):
                digest.update(block)
    except OSError as exc:
        raise StorageError(f"{path}: cannot be read: {exc}") from exc
    return digest.hexdigest()


def _is_text(path: str) -> bool:
    """Say whether a path can be stored as text: one that cannot is seen as new each time."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
