"""Paths, listings and the driver's small files, on this machine or in S3; no other room knows which.

A path is what paths.py makes of an option; below it paths are joined with '/'. Who has one in hand calls
these functions; local.py and s3.py hold the two ways of doing each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import ModuleType
from typing import Any, BinaryIO

from spark_embed.errors import StorageError
from spark_embed.storage import local, s3
from spark_embed.storage.files import (
    StoredFile,
    file_version,
    format_bytes,
    is_disk_full,
    no_space_error,
    write_error,
)
from spark_embed.storage.paths import (
    folder_path,
    is_below,
    is_inside,
    is_s3,
    is_shown,
    joined_path,
    local_path,
    parent_folder,
    spark_path,
    spark_scheme,
    spark_uri,
    split_s3,
    uri_scheme,
)
from spark_embed.storage.s3_client import traffic
from spark_embed.storage.s3_download import download_object
from spark_embed.storage.s3_errors import named, store_failure
from spark_embed.storage.s3_patience import impatient

__all__ = [
    "StoredFile",
    "check_writable",
    "copy_tree",
    "create_text",
    "delete",
    "delete_file",
    "delete_uploads",
    "download",
    "exists",
    "file_version",
    "folder_path",
    "format_bytes",
    "free_bytes",
    "impatient",
    "is_below",
    "is_disk_full",
    "is_file",
    "is_folder",
    "is_inside",
    "is_s3",
    "is_shown",
    "joined_path",
    "list_files",
    "list_folder",
    "list_names",
    "local_path",
    "make_folder",
    "make_way",
    "no_space_error",
    "open_binary",
    "parent_folder",
    "parquet_input",
    "put_back",
    "read_json",
    "read_text",
    "replaced_file",
    "spark_path",
    "spark_scheme",
    "spark_uri",
    "split_s3",
    "stat",
    "store_failure",
    "traffic",
    "undone",
    "undone_if_empty",
    "uri_scheme",
    "walk_files",
    "write_error",
    "write_json",
    "write_text",
]


def _of(path: str) -> ModuleType:
    return s3 if is_s3(path) else local


@contextmanager
def _told(path: str, what: str) -> Iterator[None]:
    """Turn an OSError in a `with` block into a StorageError: `path`: cannot be `what`."""
    try:
        yield
    except OSError as exc:
        raise StorageError(f"{path}: cannot be {what}: {exc}") from exc


def list_files(folder: str, suffix: str) -> list[StoredFile]:
    """List the files below `folder` whose name ends with `suffix`, sorted by path.

    Names that begin with _ or . are left out, as Spark leaves them out (`_col=value` folders stay).

    Raises:
        StorageError: a folder cannot be listed.
    """
    with _told(folder, "listed"):
        files = _of(folder).walk(folder)
        chosen = [file for file in files if file.path.endswith(suffix) and is_shown(file.path)]
        for dead in (file.path for file in chosen if file.is_dead_link):
            _of(folder).check_link(f"{folder}/{dead}")
        return sorted(chosen, key=lambda file: file.path)


def walk_files(folder: str) -> Iterator[StoredFile]:
    """Yield the files below `folder`, those and folders whose name begins with a dot left out.

    The order is that of the names, but for a local folder of very many: nothing holds them all.

    Raises:
        StorageError: a folder cannot be listed.
    """
    with _told(folder, "listed"):
        yield from _of(folder).walk(folder)


def list_names(folder: str) -> list[str]:
    """Return the names in `folder`, sorted; none if it does not exist.

    Raises:
        StorageError: it cannot be listed.
    """
    with _told(folder, "listed"):
        found: list[str] = _of(folder).list_names(folder)
        return found


def list_folder(folder: str) -> list[StoredFile]:
    """List the files in `folder` itself, sorted by name, hidden ones too; none if it does not exist.

    Raises:
        StorageError: it cannot be listed.
    """
    with _told(folder, "listed"):
        found: list[StoredFile] = _of(folder).list_folder(folder)
        return found


def stat(path: str) -> StoredFile:
    """Return what there is to know of the file at `path` without reading it.

    Raises:
        OSError: there is none, or it cannot be reached.
    """
    with named(path):
        found: StoredFile = _of(path).stat(path)
        return found


def exists(path: str) -> bool:
    """Say whether there is a file or a folder at `path`.

    Raises:
        StorageError: S3 does not say.
    """
    with _told(path, "read"):
        found: bool = _of(path).exists(path)
        return found


def is_file(path: str) -> bool:
    """Say whether there is a file at `path`.

    Raises:
        StorageError: S3 does not say.
    """
    with _told(path, "read"):
        found: bool = _of(path).is_file(path)
        return found


def is_folder(path: str) -> bool:
    """Say whether there is a folder at `path`; in S3: anything below it.

    Raises:
        StorageError: S3 does not say.
    """
    with _told(path, "listed"):
        found: bool = _of(path).is_folder(path)
        return found


def make_folder(path: str) -> None:
    """Make a folder, and those that it is in; S3 needs none.

    Raises:
        OSError: it cannot be made.
    """
    _of(path).make_folder(path)


def check_writable(folder: str) -> None:
    """Look whether `folder`, which need not exist, could be written to, as far as that shows beforehand.

    Raises:
        OSError: it could not.
    """
    _of(folder).check_writable(folder)


def open_binary(path: str) -> BinaryIO:
    """Open a file for reading.

    Raises:
        OSError: it cannot be opened.
    """
    file: BinaryIO = _of(path).open_binary(path)
    return file


def parquet_input(path: str, known: StoredFile | None = None) -> str | BinaryIO:
    """Return what pyarrow reads a file from: of a local one its path, which is fastest.

    Args:
        path: of the file.
        known: what `stat` has said of it; with it, an object is read only as long as it is still that.

    Raises:
        OSError: it cannot be opened.
    """
    if not is_s3(path):
        return path
    file: BinaryIO = s3.open_binary(path, known)
    return file


def download(path: str, to: str, known: StoredFile) -> None:
    """Write the object at `path` to a file on this machine; it is stored for good by then.

    Args:
        path: of an object in S3.
        to: of the file; what is left of it after an exception is nothing to use.
        known: what a listing has said of the object; another one by now is refused.

    Raises:
        StorageError: it cannot be read or written.
    """
    try:
        download_object(path, to, known)
    except OSError as exc:
        if is_disk_full(exc):
            raise no_space_error(to, known.n_bytes) from exc
        detail = str(exc).removeprefix(f"{path}: ")
        raise StorageError(f"{path}: cannot be copied to {to}: {detail}") from exc


def write_json(path: str, value: Any) -> None:
    """Write `value` to `path` for people to read; as `write_text`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: str, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the whole new one, never a part.

    Raises:
        StorageError: the file cannot be written.
    """
    data = text.encode()
    try:
        _of(path).write_bytes(path, data)
    except OSError as exc:
        raise write_error(path, exc, len(data)) from exc


def create_text(path: str, text: str) -> None:
    """Write `text` to `path`, where nothing is yet; a reader sees all of it or nothing.

    Raises:
        StorageError: it cannot be written, or (in S3) there is something else already.
    """
    data = text.encode()
    try:
        _of(path).create(path, data)
    except OSError as exc:
        raise write_error(path, exc, len(data)) from exc


def replaced_file(path: str) -> AbstractContextManager[str]:
    """Give the path of a new local file that takes the place of the one at `path` when the block ends.

    It is stored for good by then; after an exception `path` is as it was.

    Raises:
        StorageError: it cannot be written.
    """
    context: AbstractContextManager[str] = _of(path).replaced_file(path)
    return context


def free_bytes(path: str) -> float:
    """Return how much can still be stored where `path` is, or will be; infinity in S3."""
    n_bytes: float = _of(path).free_bytes(path)
    return n_bytes


def read_text(path: str) -> str | None:
    """Read the text file at `path`; None if there is no such file.

    Raises:
        StorageError: the file cannot be read, or is no UTF-8.
    """
    try:
        data: bytes = _of(path).read_bytes(path)
        return data.decode()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise StorageError(f"{path}: cannot be read: {exc}") from exc


def read_json(path: str) -> Any:
    """Read the JSON file at `path`; None if there is no such file.

    Raises:
        StorageError: the file cannot be read or is not JSON.
    """
    text = read_text(path)
    try:
        return None if text is None else json.loads(text)
    except ValueError as exc:
        raise StorageError(f"{path}: cannot be read as JSON: {exc}") from exc


def delete(path: str) -> None:
    """Delete the file or folder at `path`, if there is one.

    Raises:
        StorageError: it cannot be deleted.
    """
    with _told(path, "deleted"):
        _of(path).delete(path)


def delete_file(path: str) -> None:
    """Delete the file at `path`, if there is one; in S3 what is below its name stays.

    Raises:
        StorageError: it cannot be deleted.
    """
    with _told(path, "deleted"):
        _of(path).delete_file(path)


def delete_uploads(path: str) -> int:
    """Give up what was being uploaded to S3 at `path` or below and never completed; returns how many."""
    with _told(path, "tidied"):
        return s3.delete_uploads(path) if is_s3(path) else 0


def copy_tree(path: str, to: str) -> None:
    """Make the file or folder at `path`, if there is one, appear at `to` as well, files linked if possible.

    Raises:
        StorageError: it cannot be copied.
    """
    with _told(path, f"copied to {to}"):  # shutil.Error is an OSError
        _of(path).copy_tree(path, to)


def make_way(path: str, aside: str, *, for_folder: bool) -> None:
    """Let files appear at `path`, or in a folder there; what they would replace is at `aside` then.

    A file that another one will replace stays as well, so that its name is never without one: where the file
    system has no hard links it is not kept.

    Args:
        path: of a file, a folder or nothing.
        aside: where nothing is yet.
        for_folder: files will appear in it; False: one file will be at it.

    Raises:
        StorageError: it cannot be moved.
    """
    with _told(path, f"moved to {aside}"):
        _of(path).make_way(path, aside, for_folder=for_folder)


def put_back(aside: str, path: str) -> None:
    """Undo `make_way`, and whatever has appeared at `path` since.

    Raises:
        StorageError: it cannot be moved, or what is at `path` not be deleted.
    """
    with _told(aside, f"moved to {path}"):
        _of(path).put_back(aside, path)


@contextmanager
def undone(path: str) -> Iterator[None]:
    """Delete what a `with` block has made at `path`, unless it was there before."""
    was_there = exists(path)
    try:
        yield
    finally:
        if not was_there:
            delete(path)


@contextmanager
def undone_if_empty(path: str) -> Iterator[None]:
    """Delete the folder that a `with` block has made at `path`, if that is empty; not one from before."""
    was_there = exists(path)
    try:
        yield
    finally:
        if not was_there:
            with suppress(OSError):
                _of(path).delete_empty(path)
