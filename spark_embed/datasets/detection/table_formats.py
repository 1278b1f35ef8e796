"""Folders that a table format keeps: which of their files belong to the table as it is now; reads no data.

Beside those lie files of older versions, whose rows were deleted or written anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import unquote

import pyarrow as pa

from spark_embed.errors import ConfigError, StorageError, one_line
from spark_embed.storage import StoredFile, exists, joined_path, rust_options

NOT_LIVE = ".parquet that the Delta table does not list"
"""The kind of files that are there, and of no table (`NotUsed`)."""

_DELTA, _ICEBERG, _HUDI = "Delta", "Iceberg", "Hudi"
_FORMATS = {_DELTA: "delta", _ICEBERG: "iceberg", _HUDI: "hudi"}
_NO_CHANGE_TO_READING = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}
_VECTORS = "deletionVectors"
# Colours and a backtrace, in deltalake's messages.
_NOISE = re.compile(r"\x1b\[[0-9;]*m|\n +\d+: .*", re.DOTALL)
# <file id>_<write token>_<instant>: makeDataFileName in Hudi's FSUtils.java
_HUDI_FILE = re.compile(r".*_\d+-\d+-\d+_\d{14,17}\.parquet")
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"


def find_table(path: str) -> tuple[str, str] | None:
    """Return the folder of the table, and its format, whose own files one at this path is among."""
    *folders, name = path.split("/")
    if "_delta_log" in folders:
        return "/".join(folders[: folders.index("_delta_log")]), _DELTA
    if name.endswith(".metadata.json") and folders and folders[-1] == "metadata":
        return "/".join(folders[:-1]), _ICEBERG
    return None


def live_files(
    root: str, tables: Mapping[str, str], files: Sequence[StoredFile]
) -> tuple[list[StoredFile], list[StoredFile]]:
    """Return the parquet files that belong to the tables as they are, or to none; and the others.

    Args:
        root: the input folder.
        tables: the format of each table, by its folder below `root`.
        files: that lie below `root`.

    Raises:
        ConfigError: a table that cannot be read rightly here, with the way that helps.
        StorageError: its log cannot be read, or lists a file that is not there.
    """
    for folder in _maybe_hudi(files):  # a walk leaves .hoodie out
        table = joined_path(root, folder) if folder else root
        if exists(f"{table}/.hoodie/hoodie.properties"):
            raise _refusal(table, _HUDI, "what its files hold now only its timeline says")
    dead: set[str] = set()
    for folder, table_format in tables.items():
        prefix = f"{folder}/" if folder else ""
        inside = {file.path for file in files if file.path.startswith(prefix)}
        if not inside:
            continue
        table = joined_path(root, folder) if folder else root
        if table_format != _DELTA:
            raise _refusal(table, table_format, "what its files hold now only its metadata says")
        live = {prefix + path for path in _read_delta(table)}
        if gone := sorted(live - inside):
            raise StorageError(f"{table}: the log of this Delta table lists {gone[0]}, which is not there")
        dead |= inside - live
    return [file for file in files if file.path not in dead], [file for file in files if file.path in dead]


def _maybe_hudi(files: Sequence[StoredFile]) -> list[str]:
    """Return the folders that may be Hudi's: the input's own, and those above files with such names."""
    found = {""} if files else set()
    for folders in {os.path.dirname(file.path) for file in files if _HUDI_FILE.fullmatch(file.path)}:
        names = folders.split("/")
        found |= {"/".join(names[:depth]) for depth in range(1, len(names) + 1)}
    return sorted(found)


def _refusal(table: str, table_format: str, why: str) -> ConfigError:
    return ConfigError(
        f"--input_dir {table}: a table of {table_format}, which is not read from here: {why}; export it: "
        f'spark.read.format("{_FORMATS[table_format]}").load("{table}").write.parquet("...")'
    )


def _read_delta(table: str) -> Iterator[str]:
    """Yield the paths, below the table's folder, of the files of its newest version."""
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError as exc:
        raise _refusal(table, _DELTA, "its log takes deltalake (pip install 'spark-embed[delta]')") from exc
    try:
        opened = DeltaTable(table, storage_options=rust_options(table))
        protocol, metadata = opened.protocol(), opened.metadata()
        files = pa.table(opened.get_add_actions())
        features = set(protocol.reader_features or ()) - _NO_CHANGE_TO_READING
        # A table may have them and have none: Databricks lets new tables have them.
        if _VECTORS in features and not pa.table(opened.deletion_vectors()).num_rows:
            features.remove(_VECTORS)
    except (DeltaError, OSError, ValueError) as exc:
        said = one_line(_NOISE.sub("", str(exc)), None)
        raise StorageError(f"{table}: the log of this Delta table cannot be read: {said}") from exc
    if metadata.configuration.get("delta.columnMapping.mode", "none") != "none":
        features.add("columnMapping")
    if features:
        raise _refusal(table, _DELTA, f"it uses {', '.join(sorted(features))}")
    values = files["partition"].combine_chunks() if metadata.partition_columns else None
    for row, encoded in enumerate(files["path"].to_pylist()):
        path = unquote(encoded)
        if "://" in encoded or path.startswith("/"):
            raise _refusal(table, _DELTA, f"it is a clone with files elsewhere ({encoded})")
        partition = (
            {} if values is None else {field.name: values.field(field.name)[row] for field in values.type}
        )
        if not _is_named_so(path, partition):
            raise _refusal(table, _DELTA, f"the folders of {path} do not name its partition")
        yield path


def _is_named_so(path: str, partition: Mapping[str, pa.Scalar]) -> bool:
    """Say whether a file's folders, which the columns come from, say of its partition what the log does."""
    named = dict(name.split("=", 1) for name in path.split("/")[:-1] if "=" in name)
    return named.keys() == partition.keys() and all(
        _is_value(text, partition[name]) for name, text in named.items()
    )


def _is_value(text: str, value: pa.Scalar) -> bool:
    if text == _NULL_FOLDER:
        return not value.is_valid
    try:
        return bool(pa.scalar(unquote(text)).cast(value.type) == value)
    except pa.ArrowException:
        return False
