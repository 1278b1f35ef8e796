"""A reference -> the encoded bytes of one image; the only room that looks inside a reference.

Runs on executors, on the feed's threads. It knows no image format: bytes are bytes here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from spark_embed.errors import ImageError
from spark_embed.storage import is_below, local_path, uri_scheme

Buffer = bytes | memoryview

MAX_BYTES = 1 << 30


class Reference(NamedTuple):
    """Where one image's bytes are: inline, or at a uri (a relative one starts from `base`)."""

    inline: Buffer | None
    uri: str | None = None
    base: str | None = None


@dataclass(frozen=True)
class FetchPolicy:
    """What may be read. `roots` are absolute folders; a path outside all of them is `forbidden`."""

    roots: tuple[str, ...] = ()
    max_bytes: int = MAX_BYTES


Fetch = Callable[[Reference], Buffer]


def make_fetch(policy: FetchPolicy) -> Fetch:
    """Return the function that turns a reference into bytes, or raises an `ImageError`."""

    def fetch(reference: Reference) -> Buffer:
        data = reference.inline
        if data is None:
            data = _read_uri(reference, policy)
        if len(data) > policy.max_bytes:
            raise ImageError("too_many_bytes", f"{len(data)} is more than {policy.max_bytes}")
        return data

    return fetch


def _read_uri(reference: Reference, policy: FetchPolicy) -> bytes:
    if not reference.uri:
        raise ImageError("null_bytes", "the row has neither image bytes nor a uri")
    path = local_path(reference.uri)
    if path is None:
        raise ImageError(
            "fetch_failed", f"{uri_scheme(reference.uri)}: uris are not fetched, only local paths"
        )
    if "\0" in path:
        raise ImageError("not_found", "the path holds a null character")
    path = os.path.join(reference.base or "", path)
    if not any(is_below(path, root) for root in policy.roots):
        raise ImageError("forbidden", f"{path} is outside the folders that may be read (--allowed_roots)")
    return _read_file(path, policy.max_bytes)


def _read_file(path: str, max_bytes: int) -> bytes:
    try:
        # Without O_NONBLOCK the open of a named pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not_found", f"{path} is not a regular file")
            if status.st_size > max_bytes:
                raise ImageError("too_many_bytes", f"{status.st_size} is more than {max_bytes}")
            return file.read()
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise ImageError("not_found", path) from exc
    except IsADirectoryError as exc:
        raise ImageError("not_found", f"{path} is not a regular file") from exc
    except PermissionError as exc:
        raise ImageError("forbidden", f"{path}: permission denied") from exc
    except OSError as exc:
        raise ImageError("fetch_failed", f"{path}: {exc.strerror}") from exc
