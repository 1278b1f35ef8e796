"""The files of an index: written whole or not at all; on this machine, or a copy here of those in S3."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import faiss

from spark_embed.errors import StorageError, one_line
from spark_embed.models.local_copy import copy_folder
from spark_embed.storage import is_s3, list_files, replaced_file


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


def write_index(index: Any, to: str) -> None:
    """Write a FAISS index to a file, here or in S3.

    Raises:
        StorageError: it cannot be written.
    """
    with replaced_file(to) as path:
        try:
            faiss.write_index(index, path)
        except RuntimeError as exc:
            raise OSError(one_line(exc)) from exc


def open_index(path: str) -> Any:
    """Open a FAISS index, its codes mapped from the file: only what is looked at comes into memory.

    Raises:
        StorageError: it is broken.
    """
    for flags in (faiss.IO_FLAG_MMAP, faiss.IO_FLAG_MMAP_IFC, 0):  # lists of cells, other codes, all else
        try:
            index = faiss.read_index(path, flags)
        except RuntimeError as exc:
            failure = exc
            continue
        if flags == faiss.IO_FLAG_MMAP and faiss.try_extract_index_ivf(index) is None:
            continue  # nothing of it would be mapped
        return index
    raise StorageError(f"{path}: is no FAISS index, or broken; index again: {one_line(failure)}")
