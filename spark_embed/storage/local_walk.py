"""The files below a folder of this machine, one after the other, whatever is wrong with single ones."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import NamedTuple

from spark_embed.storage.files import StoredFile
from spark_embed.storage.paths import is_inside

_MAX_SORTED = 1_000_000

# What is wrong with one entry of a folder, and will be: a link to itself, to nothing or below a file, no
# permission, a path that is too long. A disk that fails is another matter.
_LASTING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM)


def walk(folder: str, in_order: bool = False) -> Iterator[StoredFile]:
    """Yield the files below `folder`, those and folders whose name begins with a dot left out.

    The order is that of the names, folder by folder; unless `in_order` not in a folder of very many, so that
    nothing holds them all (some 250 bytes for each entry of it). A folder below it that cannot be listed, and
    is not likely to be the next time, is yielded itself, with the reason.
    """
    n_sorted = None if in_order else _MAX_SORTED
    root = os.path.realpath(folder)
    # Not by recursion: folders may lie deeper than Python's calls may.
    inside = [_Listing(_entries(folder, n_sorted), "", root)]
    while inside:
        entries, prefix, real = inside[-1]
        if (entry := next(entries, None)) is None:
            inside.pop()
            continue
        if entry.name.startswith(".") and "=" not in entry.name:
            continue
        path, target = prefix + entry.name, f"{real}/{entry.name}"
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
        if not _is_folder(entry):
            yield replace(_seen(entry), path=path, leads_to="" if is_inside(target, root) else target)
            continue
        if entry.is_symlink() and any(target == above.real for above in inside):  # it would never end
            continue
        try:
            inside.append(_Listing(_entries(entry.path, n_sorted), f"{path}/", target))
        except OSError as exc:
            if exc.errno not in _LASTING:
                raise
            yield StoredFile(path, 0, unlisted=exc.strerror or str(exc))


class _Listing(NamedTuple):
    """A folder that is being walked through: what is left of it, its path, and what that is without links."""

    entries: Iterator[os.DirEntry[str]]
    prefix: str
    real: str


def _entries(folder: str, n_sorted: int | None) -> Iterator[os.DirEntry[str]]:
    entries = os.scandir(folder)
    first = sorted(islice(entries, n_sorted), key=lambda entry: entry.name)
    return chain(first, entries)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as exc:
        if exc.errno not in _LASTING:
            raise
        return False


def _seen(entry: os.DirEntry[str]) -> StoredFile:
    """Return what is to be seen of a file; of a link that leads nowhere, what is to be seen of that."""
    for follows in (True, False):
        try:
            status = entry.stat(follow_symlinks=follows)
        except OSError as exc:
            if exc.errno not in _LASTING:
                raise
        else:
            return StoredFile(entry.name, status.st_size, status.st_mtime_ns, not follows)
    return StoredFile(entry.name, 0, 0, True)
