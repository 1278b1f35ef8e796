"""What both kinds of storage have in common: what a file is, what fails, and how that is told."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from spark_embed.errors import NoSpaceError, StorageError


@dataclass(frozen=True)
class StoredFile:
    """A file below a folder: `path` is relative to it, with '/'.

    Attributes:
        is_dead_link: it is a link to nothing, or nothing can be seen of it.
        etag: what S3 says of its content; "" for a local file.
        version: tells its content from the one that replaces it (`spark_embed.datasets.catalogue`).
        leads_to: its path without links, if that is outside the folder.
        unlisted: why a folder, which this is then, cannot be listed.
    """

    path: str
    n_bytes: int
    modified_ns: int = 0
    is_dead_link: bool = False
    etag: str = ""
    version: str = ""
    leads_to: str = ""
    unlisted: str = ""


def file_version(n_bytes: int, modified_ns: int, etag: str = "") -> str:
    """Return what tells a file from the one that replaces it.

    Without the ETag, what `source` makes with Spark, which does not know of it.
    """
    version = f"{n_bytes}-{modified_ns // 1_000_000}"
    return f"{version}-{etag}" if etag else version


def n_bytes_at(path: str) -> int:
    """Return how large a file on this machine is; 0 if there is none."""
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
