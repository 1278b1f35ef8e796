"""What changes at a path, whatever is in it: made, deleted, copied, moved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from spark_embed.storage.lookup import exists
from spark_embed.storage.store import as_storage_error, store_of


def make_folder(path: str) -> None:
    """Make a folder, and those that it is in; S3 needs none.

    Raises:
        OSError: it cannot be made.
    """
    store_of(path).make_folder(path)


def delete(path: str) -> None:
    """Delete the file or folder at `path`, if there is one.

    Raises:
        StorageError: it cannot be deleted.
    """
    with as_storage_error(path, "deleted"):
        store_of(path).delete(path)


def delete_file(path: str) -> None:
    """Delete the file at `path`, if there is one; in S3 what is below its name stays.

    Raises:
        StorageError: it cannot be deleted.
    """
    with as_storage_error(path, "deleted"):
        store_of(path).delete_file(path)


def delete_uploads(path: str) -> int:
    """Give up what was being uploaded to S3 at `path` or below and never completed; returns how many."""
    with as_storage_error(path, "tidied"):
        return store_of(path).delete_uploads(path)


def copy_tree(path: str, to: str) -> None:
    """Make the file or folder at `path`, if there is one, appear at `to` as well, files linked if possible.

    Raises:
        StorageError: it cannot be copied.
    """
    with as_storage_error(path, f"copied to {to}"):  # shutil.Error is an OSError
        store_of(path).copy_tree(path, to)


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
    with as_storage_error(path, f"moved to {aside}"):
        store_of(path).make_way(path, aside, for_folder=for_folder)


def put_back(aside: str, path: str) -> None:
    """Undo `make_way`, and whatever has appeared at `path` since.

    Raises:
        StorageError: it cannot be moved, or what is at `path` not be deleted.
    """
    with as_storage_error(aside, f"moved to {path}"):
        store_of(path).put_back(aside, path)


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
                store_of(path).delete_empty(path)
