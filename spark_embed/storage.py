"""Paths, listings and the driver's small files; the only file that knows URIs.

For now a local path, plain or as a file: URI. Nothing outside this room builds or takes apart a URI.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any
from urllib.parse import unquote, urlsplit

from spark_embed.errors import ConfigError, NoSpaceError, StorageError

_MAX_SORTED = 1_000_000


@dataclass(frozen=True)
class StoredFile:
    """A file below a folder: `path` is relative to it, with '/'; a dead link is a link to nothing.

    `version` tells its content from the one that replaces it (`spark_embed.source.catalogue`).
    """

    path: str
    n_bytes: int
    modified_ns: int = 0
    is_dead_link: bool = False
    version: str = ""


def uri_scheme(uri: str) -> str:
    """Return the scheme of `uri` in lower case, or '' for a plain path."""
    scheme, separator, _ = uri.partition("://")
    if separator and scheme.isalnum():
        return scheme.lower()
    return "file" if uri[:5].lower() == "file:" else ""


def local_path(uri: str) -> str | None:
    """Return the path that a plain path or a file: URI names, None for any other scheme or host."""
    scheme = uri_scheme(uri)
    if scheme == "":
        return uri
    if scheme != "file":
        return None
    try:
        parts = urlsplit(uri)
    except ValueError:  # brackets that are no IPv6 address
        return None
    return unquote(parts.path) if parts.netloc in ("", "localhost") else None


def parent_folder(uri: str) -> str:
    """Return the folder of the file at `uri`, as a path where it is local."""
    path = local_path(uri)
    return os.path.dirname(uri if path is None else path)


def folder_path(uri: str, flag: str) -> str:
    """Return the absolute local path of the folder that the option `flag` names (it need not exist).

    Raises:
        ConfigError: no path at all, or a scheme that is not read yet.
    """
    path = local_path(uri)
    if path is None:
        raise ConfigError(f"{flag} {uri}: only local paths and file: URIs can be used so far")
    if not path:
        raise ConfigError(f"{flag} {uri!r}: names no folder")
    return os.path.abspath(os.path.expanduser(path))


def is_below(path: str, folder: str) -> bool:
    """Say whether `path` is `folder` or inside it, once symbolic links are resolved."""
    return is_inside(os.path.realpath(path), os.path.realpath(folder))


def is_inside(path: str, folder: str) -> bool:
    """Say the same of two paths that are absolute and free of symbolic links, without looking at the disk."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def list_files(folder: str, suffix: str) -> list[StoredFile]:
    """List the files below `folder` whose name ends with `suffix`, sorted by path.

    Names that begin with _ or . are left out, as Spark leaves them out (`_col=value` folders stay).

    Raises:
        StorageError: a folder cannot be listed.
    """
    try:
        files = _walk(folder, "", frozenset())
        chosen = [file for file in files if file.path.endswith(suffix) and is_shown(file.path)]
        for dead in (file.path for file in chosen if file.is_dead_link):
            os.stat(os.path.join(folder, dead))
        return sorted(chosen, key=lambda file: file.path)
    except OSError as exc:
        raise StorageError(f"{folder}: cannot be listed: {exc}") from exc


def walk_files(folder: str) -> Iterator[StoredFile]:
    """Yield the files below `folder`, those and folders whose name begins with a dot left out.

    The order is that of the names, but for a folder of very many: nothing holds them all.

    Raises:
        StorageError: a folder cannot be listed.
    """
    try:
        yield from _walk(folder, "", frozenset())
    except OSError as exc:
        raise StorageError(f"{folder}: cannot be listed: {exc}") from exc


def is_shown(path: str) -> bool:
    """Say whether Spark would read a file there: no name in the path begins with _ (but _col=value may)."""
    return all("=" in name or not name.startswith("_") for name in path.split("/"))


def _walk(folder: str, prefix: str, seen: frozenset[str]) -> Iterator[StoredFile]:
    real = os.path.realpath(folder)
    if real in seen:  # a symbolic link back up would never end
        return
    with os.scandir(folder) as entries:
        first = sorted(islice(entries, _MAX_SORTED), key=lambda entry: entry.name)
        for entry in chain(first, entries):
            if entry.name.startswith(".") and "=" not in entry.name:
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", seen | {real})
                continue
            try:
                status, is_dead = entry.stat(), False
            except FileNotFoundError:
                status, is_dead = entry.stat(follow_symlinks=False), True
            yield StoredFile(prefix + entry.name, status.st_size, status.st_mtime_ns, is_dead)


def list_names(folder: str) -> list[str]:
    """Return the names in `folder`, sorted; none if it does not exist."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise StorageError(f"{folder}: cannot be listed: {exc}") from exc


def write_json(path: str, value: Any) -> None:
    """Write `value` to `path` for people to read; as `write_text`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: str, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the whole new one, never a part.

    Raises:
        StorageError: the file cannot be written.
    """
    data = text.encode()
    with replaced_file(path) as staged, open(staged, "wb") as file:
        file.write(data)


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
        _sync(staged)
        os.replace(staged, path)
        _sync(folder)
    except OSError as exc:
        raise write_error(path, exc, _size(staged)) from exc
    finally:
        with suppress(OSError):
            os.unlink(staged)


def _sync(path: str) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def write_error(path: str, exc: OSError, n_bytes: int) -> StorageError:
    """Return what to raise when a file of `n_bytes` or more could not be written to `path`."""
    return (
        no_space_error(path, n_bytes)
        if is_disk_full(exc)
        else StorageError(f"{path}: cannot be written: {exc}")
    )


def is_disk_full(exc: OSError) -> bool:
    """Say whether there was no space left, on the disk or of a quota."""
    return exc.errno in (errno.ENOSPC, errno.EDQUOT)


def no_space_error(path: str, n_bytes: float) -> NoSpaceError:
    """Return what to raise when there is no space for `n_bytes` at `path`."""
    return NoSpaceError(
        f"{path}: no space left on the disk; about {format_bytes(max(n_bytes, 1 << 20))} more is needed. "
        "Free some, then start the same command again: it goes on"
    )


def format_bytes(n_bytes: float) -> str:
    """Return a number of bytes as people read it: 1.5 GiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "bytes" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


def free_bytes(path: str) -> int:
    """Return the free bytes of the disk that `path`, or the folder that it will be in, is on."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free


def read_text(path: str) -> str | None:
    """Read the text file at `path`; None if there is no such file.

    Raises:
        StorageError: the file cannot be read, or is no UTF-8.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
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
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
    except OSError as exc:
        raise StorageError(f"{path}: cannot be deleted: {exc}") from exc


def copy_tree(path: str, to: str) -> None:
    """Make the file or folder at `path`, if there is one, appear at `to` as well, files linked if possible.

    Raises:
        StorageError: it cannot be copied.
    """
    try:
        os.makedirs(os.path.dirname(to), exist_ok=True)
        if os.path.isdir(path):
            shutil.copytree(path, to, copy_function=_link)
        elif os.path.lexists(path):
            _link(path, to)
    except (OSError, shutil.Error) as exc:
        raise StorageError(f"{path}: cannot be copied to {to}: {exc}") from exc


def _link(path: str, to: str) -> None:
    try:
        os.link(path, to)
    except OSError:
        shutil.copy2(path, to)


@contextmanager
def undone(path: str) -> Iterator[None]:
    """Delete what a `with` block has made at `path`, unless it was there before."""
    was_there = os.path.lexists(path)
    try:
        yield
    finally:
        if not was_there:
            delete(path)


@contextmanager
def undone_if_empty(path: str) -> Iterator[None]:
    """Delete the folder that a `with` block has made at `path`, if that is empty; not one from before."""
    was_there = os.path.lexists(path)
    try:
        yield
    finally:
        if not was_there:
            with suppress(OSError):
                os.rmdir(path)


def make_way(path: str, aside: str, *, for_folder: bool) -> None:
    """Let files be moved to `path`, or into a folder there; what they would replace is at `aside` then.

    A file that another one will replace stays as well, so that its name is never without one: where the file
    system has no hard links it is not kept.

    Args:
        path: of a file, a folder or nothing.
        aside: where nothing is yet.
        for_folder: files will be moved into it; False: one file will be moved to it.

    Raises:
        StorageError: it cannot be moved.
    """
    if not os.path.lexists(path) or (for_folder and os.path.isdir(path)):
        return
    try:
        os.makedirs(os.path.dirname(aside), exist_ok=True)
        if for_folder or os.path.isdir(path):
            os.rename(path, aside)
        else:
            with suppress(OSError):
                os.link(path, aside)
    except OSError as exc:
        raise StorageError(f"{path}: cannot be moved to {aside}: {exc}") from exc


def put_back(aside: str, path: str) -> None:
    """Undo `make_way`, and whatever was moved to `path` since.

    Raises:
        StorageError: it cannot be moved, or what is at `path` not be deleted.
    """
    if os.path.isdir(path) or os.path.isdir(aside):
        delete(path)
    move(aside, path)


def move(path: str, to: str) -> None:
    """Move the file or folder at `path` to `to`, both on one file system.

    There must be nothing at `to`, or a file whose place a file takes: a reader sees one or the other.

    Raises:
        StorageError: it cannot be moved.
    """
    try:
        os.rename(path, to)
    except OSError as exc:
        raise StorageError(f"{path}: cannot be moved to {to}: {exc}") from exc
