"""The files of an index: written whole or not at all; on this machine, or a copy here of those in S3."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np

from spark_embed.errors import ConfigError, ResumeError, StorageError, one_line
from spark_embed.models.local_copy import copy_folder
from spark_embed.output.folder import OUR_NAMES, Output, note_extra
from spark_embed.storage import is_below, is_s3, list_files, list_names, open_binary, replaced_file


def take_folder(root: str, data_root: str, ours: Sequence[str], flag: str) -> None:
    """Look whether a folder may be written into, before anything is; in an output folder note it there.

    Args:
        root: of the index, or the like.
        data_root: of the data set.
        ours: what the names in it begin with.
        flag: that names it.

    Raises:
        ConfigError: it is the output folder itself, or one of that's own.
        ResumeError: something that is not ours lies in it.
    """
    inside = None
    if is_below(root, data_root):
        whole, outer = (root, data_root) if is_s3(root) else map(os.path.realpath, (root, data_root))
        inside = whole.removeprefix(outer).strip("/").split("/")[0]
        if not inside or inside in OUR_NAMES:
            raise ConfigError(f"{flag} {root}: must be a folder of its own, not of what the run writes")
    if foreign := sorted(name for name in list_names(root) if not name.startswith(tuple(ours))):
        raise ResumeError(f"{flag} {root}: holds files that are not ours ({foreign[0]}); choose another")
    if inside:
        note_extra(Output(data_root), inside)


def key_of(*values: object) -> str:
    """Return a short name of values that JSON can hold, which others do not have."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def local_files(index_dir: str, names: Sequence[str]) -> dict[str, str]:
    """Return paths of files on this machine, by name; those in S3 are fetched once.

    Args:
        index_dir: of the index, here or in S3.
        names: of files below it.

    Raises:
        StorageError: one is not there, or cannot be read.
    """
    if not is_s3(index_dir):
        for name in names:
            if not os.path.isfile(os.path.join(index_dir, name)):
                raise StorageError(f"{index_dir}: {name} is gone; index again")
        return {name: os.path.join(index_dir, name) for name in names}
    listed = {file.path: file for file in list_files(index_dir, "")}
    if missing := sorted(set(names) - set(listed)):
        raise StorageError(f"{index_dir}: {missing[0]} is gone; index again")
    copies = {name: copy_folder(index_dir, [listed[name]]) for name in names}  # of each, as parts come and go
    return {name: os.path.join(folder, name) for name, folder in copies.items()}


def save(to: str, **arrays: Any) -> int:
    """Write arrays to a file, here or in S3; returns its bytes.

    Raises:
        StorageError: it cannot be written.
    """
    with replaced_file(to) as path, open(path, "wb") as file:
        np.savez(file, **arrays)
        return file.tell()


def load(path: str) -> dict[str, Any]:
    """Read what `save` has written.

    Raises:
        StorageError: it cannot be read, or is broken.
    """
    try:
        with open_binary(path) as file, np.load(file, allow_pickle=False) as loaded:
            return dict(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise StorageError(f"{path}: cannot be read, or is broken: {one_line(exc)}") from exc


def write_index(index: Any, to: str) -> int:
    """Write a FAISS index to a file, here or in S3; returns its bytes.

    Raises:
        StorageError: it cannot be written.
    """
    with replaced_file(to) as path:
        try:
            faiss.write_index(index, path)
        except RuntimeError as exc:
            raise OSError(one_line(exc)) from exc
        return os.path.getsize(path)


def open_index(path: str, *, has_cells: bool) -> Any:
    """Open a FAISS index, its codes mapped from the file: only what is looked at comes into memory.

    Args:
        path: of the file.
        has_cells: FAISS maps lists of cells in another way than other codes, which it would read instead.

    Raises:
        StorageError: it is broken.
    """
    for flags in (faiss.IO_FLAG_MMAP if has_cells else faiss.IO_FLAG_MMAP_IFC, 0):
        try:
            return faiss.read_index(path, flags)
        except RuntimeError as exc:
            failure = exc
    raise StorageError(f"{path}: is no FAISS index, or broken; index again: {one_line(failure)}")
