"""Files on this machine's file systems; every function raises OSError as the system says it."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import BinaryIO

from spark_embed.storage.files import StoredFile, n_bytes_at, write_error
from spark_embed.storage.local_walk import walk as walk

UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What a file system answers that cannot do what it is asked for: FUSE, FAT."""


def list_names(folder: str) -> list[str]:
    """Return the names in `folder`, sorted; none if it does not exist."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def list_folder(folder: str) -> list[StoredFile]:
    """Return the files in `folder` itself, sorted by name; none if it does not exist."""
    paths = [(name, os.path.join(folder, name)) for name in list_names(folder)]
    return [replace(stat(path), path=name) for name, path in paths if os.path.isfile(path)]


def stat(path: str) -> StoredFile:
    """Return what there is to know of a file without reading it."""
    status = os.stat(path)
    return StoredFile(path, status.st_size, status.st_mtime_ns)


def exists(path: str) -> bool:
    """Say whether there is something at `path`."""
    return os.path.lexists(path)


def is_folder(path: str) -> bool:
    """Say whether `path` is a folder."""
    return os.path.isdir(path)


def make_folder(path: str) -> None:
    """Make a folder, and those that it is in."""
    os.makedirs(path, exist_ok=True)


def open_binary(path: str) -> BinaryIO:
    """Open a file for reading."""
    return open(path, "rb")


def read_bytes(path: str) -> bytes:
    """Return the content of a file."""
    with open_binary(path) as file:
        return file.read()


@contextmanager
def replaced_file(path: str) -> Iterator[str]:
    """Give the path of a new file that takes the place of the one at `path` when the `with` block ends.

    It is on the disk by then, and so is its name; after an exception `path` is as it was.

    Raises:
        StorageError: it cannot be written.
    """
    staged = f"{path}.{os.getpid()}-{threading.get_native_id()}.tmp"  # no other writer here has that name
    folder = os.path.dirname(path) or "."
    try:
        os.makedirs(folder, exist_ok=True)
        yield staged
        sync(staged)
        move(staged, path)
        sync(folder)
    except OSError as exc:
        raise write_error(path, exc, n_bytes_at(staged)) from exc
    finally:
        with suppress(OSError):
            os.unlink(staged)


def write_bytes(path: str, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the whole new one, never a part."""
    with replaced_file(path) as staged, open(staged, "wb") as file:
        file.write(data)


def create(path: str, data: bytes) -> None:
    """Write a file where, as its name is new, nothing is."""
    write_bytes(path, data)


def replace_bytes(path: str, data: bytes, may_replace: Callable[[bytes | None], bool]) -> bool:
    """Write a file over what `may_replace` has seen; a disk cannot tell if it was replaced in that moment."""
    there = None
    with suppress(FileNotFoundError):
        there = read_bytes(path)
    if not may_replace(there):
        return False
    write_bytes(path, data)
    return True


def sync(path: str) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(path: str) -> float:
    """Return the free bytes of the disk that `path`, or the folder that it will be in, is on."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free


def delete(path: str) -> None:
    """Delete the file or folder at `path`, if there is one."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def delete_uploads(path: str) -> int:
    """Do nothing: what is being written has the name of a file, which is deleted where it is known."""
    return 0


def copy_tree(path: str, to: str, /) -> None:
    """Make the file or folder at `path`, if there is one, appear at `to`, too, files linked if possible."""
    os.makedirs(os.path.dirname(to), exist_ok=True)
    if os.path.isdir(path):
        os.makedirs(to, exist_ok=True)
        for name in list_names(path):
            copy_tree(os.path.join(path, name), os.path.join(to, name))
    elif os.path.lexists(path):
        _link(path, to)


def _link(path: str, to: str) -> None:
    try:
        os.link(path, to)
    except OSError:
        _copy(path, to)


def is_file(path: str) -> bool:
    """Say whether `path` is a file."""
    return os.path.isfile(path)


def delete_file(path: str) -> None:
    """Delete the file at `path`, if there is one."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def make_way(path: str, aside: str, /, *, for_folder: bool) -> None:
    """Let files appear at `path`, or in a folder there; what they would replace is at `aside` then.

    A file that another one will replace stays as well, so that its name is never without one: where the file
    system has no hard links it is not kept.

    Args:
        path: of a file, a folder or nothing.
        aside: where nothing is yet.
        for_folder: files will appear in it; False: one file will be at it.
    """
    if not os.path.lexists(path) or (for_folder and os.path.isdir(path)):
        return
    os.makedirs(os.path.dirname(aside), exist_ok=True)
    if for_folder or os.path.isdir(path):
        move(path, aside)
    else:
        with suppress(OSError):
            os.link(path, aside)


def put_back(aside: str, path: str, /) -> None:
    """Undo `make_way`, and whatever has appeared at `path` since."""
    if os.path.isdir(path) or os.path.isdir(aside):
        delete(path)
    move(aside, path)


def move(path: str, to: str) -> None:
    """Move the file or folder at `path` to `to`, both on one file system.

    There must be nothing at `to`, or a file whose place a file takes: a reader sees one or the other. Where
    the file system cannot rename (Databricks' volumes: ENOSYS, earth-mover/icechunk#2341), it is copied, and
    such a one shows a file once it is closed.
    """
    try:
        os.replace(path, to)
    except OSError as exc:
        if exc.errno not in UNSUPPORTED:
            raise
        _copy(path, to)
        delete(path)


def _copy(path: str, to: str) -> None:
    """Copy contents alone: where one cannot rename, one cannot set modes and times either."""
    if not os.path.isdir(path):
        shutil.copyfile(path, to)
        return
    os.makedirs(to, exist_ok=True)
    for name in list_names(path):
        _copy(os.path.join(path, name), os.path.join(to, name))


def check_writable(folder: str) -> None:
    """Raise PermissionError if `folder`, which need not exist, could not be made or written to."""
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} is not a folder that can be written to")
