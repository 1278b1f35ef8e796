"""What can be done to a path on this machine or in S3: each operation once, and what is said if it fails.

local.py and s3/store.py are the two ways of doing each, and say of each what it does; the path decides.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from spark_embed.errors import ConfigError, StorageError
from spark_embed.storage import local
from spark_embed.storage.files import StoredFile
from spark_embed.storage.paths import folder_path, is_s3, is_shown
from spark_embed.storage.s3 import store as s3
from spark_embed.storage.s3.errors import S3CredentialsError

P = ParamSpec("P")
R = TypeVar("R")


def existing_folder(uri: str, flag: str) -> str:
    """Return what `folder_path` does, of a folder that must be there.

    Raises:
        ConfigError: it is no folder, or none that is read.
        StorageError: nobody can say.
    """
    path = folder_path(uri, flag)
    if is_folder(path):
        return path
    found = "this is a file; give the folder that it is in" if is_file(path) else "there is no such folder"
    raise ConfigError(f"{flag} {path}: {found}")


@contextmanager
def _as_storage_error(path: str, what: str) -> Iterator[None]:
    try:
        yield
    except S3CredentialsError as exc:  # whatever was asked for
        raise StorageError(f"{path}: {str(exc).removeprefix(f'{path}: ')}") from exc
    except OSError as exc:  # shutil.Error is one
        raise StorageError(f"{path}: cannot be {what}: {exc}") from exc


def _either(
    here: Callable[Concatenate[str, P], R], there: Callable[Concatenate[str, P], R], what: str | None = None
) -> Callable[Concatenate[str, P], R]:
    """Return the function that does `here` to a path on this machine, and `there` to one in S3.

    Args:
        here: raises OSErrors, as `there` does.
        there: the same for S3.
        what: StorageErrors say that the path cannot be `what`, {} for the argument after it; None: an OSError
            is let through.
    """

    @wraps(here, assigned=("__name__", "__qualname__", "__doc__"))  # the module is this one
    def either(path: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        do = there if is_s3(path) else here
        if what is None:
            return do(path, *args, **kwargs)
        with _as_storage_error(path, what.format(*args)):
            return do(path, *args, **kwargs)

    return either


# What there is.
list_names = _either(local.list_names, s3.list_names, "listed")
list_folder = _either(local.list_folder, s3.list_folder, "listed")
is_folder = _either(local.is_folder, s3.is_folder, "listed")
is_file = _either(local.is_file, s3.is_file, "read")
exists = _either(local.exists, s3.exists, "read")
stat = _either(local.stat, s3.stat)
free_bytes = _either(local.free_bytes, s3.free_bytes)
check_writable = _either(local.check_writable, s3.check_writable)

# What is in a file. contents.py says what a write that fails lacked: maybe space.
open_binary = _either(local.open_binary, s3.open_binary)
read_bytes = _either(local.read_bytes, s3.read_bytes)
write_bytes = _either(local.write_bytes, s3.write_bytes)
create = _either(local.create, s3.create)
replace_bytes = _either(local.replace_bytes, s3.replace_bytes)
replaced_file = _either(local.replaced_file, s3.replaced_file)

# What changes, whatever is there.
make_folder = _either(local.make_folder, s3.make_folder)
delete = _either(local.delete, s3.delete, "deleted")
delete_file = _either(local.delete_file, s3.delete_file, "deleted")
delete_uploads = _either(local.delete_uploads, s3.delete_uploads, "tidied")
copy_tree = _either(local.copy_tree, s3.copy_tree, "copied to {}")
make_way = _either(local.make_way, s3.make_way, "moved to {}")
put_back = _either(local.put_back, s3.put_back, "moved to {}")

_walk = _either(local.walk, s3.walk)


def walk_files(folder: str, *, in_order: bool = False) -> Iterator[StoredFile]:
    """Yield the files below `folder`, those and folders whose name begins with a dot left out.

    In S3 the order is that of the keys. Here it is that of the names, folder by folder; unless `in_order`
    not in a folder of very many, so that nothing holds them all. A folder below it that cannot be listed, for
    a reason that lasts, is yielded itself (`StoredFile.unlisted`).

    Raises:
        StorageError: a folder cannot be listed.
    """
    with _as_storage_error(folder, "listed"):
        yield from _walk(folder, in_order)


def list_files(folder: str, suffix: str) -> list[StoredFile]:
    """List the files below `folder` whose name ends with `suffix`, sorted by path.

    Names that begin with _ or . are left out, as Spark leaves them out (`_col=value` folders stay).

    Raises:
        StorageError: a folder cannot be listed, or a file is a link to nothing.
    """
    found = [file for file in walk_files(folder) if is_shown(file.path)]
    chosen = [file for file in found if file.path.endswith(suffix)]
    with _as_storage_error(folder, "listed"):
        for unlisted in (file for file in found if file.unlisted):
            raise OSError(f"{unlisted.path}: {unlisted.unlisted}")
        for dead in (file.path for file in chosen if file.is_dead_link):
            local.stat(f"{folder}/{dead}")  # raises what opening it would raise
    return sorted(chosen, key=lambda file: file.path)


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
        if not was_there and not is_s3(path):  # there an empty folder is no folder
            with suppress(OSError):
                os.rmdir(path)
