"""A reference -> the encoded bytes of one image; the only room that looks inside a reference.

Runs on executors, on the feed's threads. It knows no image format: bytes are bytes here. What is behind an
http(s) url is downloaded ahead of it, by read_ahead.py, and arrives here as inline bytes.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from spark_embed.errors import ImageError
from spark_embed.inference.fetch.inline_text import decode_inline_text, is_inline_text
from spark_embed.inference.fetch.ranges import RangeReader
from spark_embed.inference.fetch.rows import RowReader
from spark_embed.storage import (
    is_inside,
    is_s3,
    joined_path,
    local_path,
    parent_folder,
    shown_path,
    spark_path,
    split_s3,
    uri_scheme,
)

Buffer = bytes | bytearray | memoryview

MAX_BYTES = 256 << 20
"""About what 85 million pixels take uncompressed; with many downloads at once a gigabyte each is too much."""


class Reference(NamedTuple):
    """Where one image's bytes are.

    Inline; or at a uri (a relative one starts from `base`; one may be the image itself, as text); or in a
    `row` of a parquet `file`, or `length` bytes from an `offset` of any file. The file had this `version`
    (`spark_embed.storage.file_version`) when the run was planned. Or nowhere: `missing` says why. Bytes of
    paths that are no UTF-8 are surrogates, as os.fsdecode makes them.
    """

    inline: Buffer | None = None
    uri: str | None = None
    base: str | None = None
    file: str | None = None
    row: int | None = None
    offset: int | None = None
    length: int | None = None
    version: str | None = None
    missing: str | None = None


@dataclass(frozen=True)
class DownloadPolicy:
    """How images are downloaded; each attribute but the last is an option (`fetch_...`) of `Config`.

    Of objects in S3 only the first two time-outs and `concurrency` hold.

    Attributes:
        connect_timeout_s: of one attempt: to resolve the name, connect and greet (TLS).
        read_timeout_s: of one attempt: without a single byte.
        timeout_s: of an image: all attempts, redirects and the pauses between them together.
        redirects: that are followed; 0 for none.
        attempts: in all, where an error may pass.
        concurrency: downloads at once in one task, of them `concurrency_per_host` from one host.
        memory_bytes: downloaded images of a task that wait to be decoded, about; at most twice that and
            one image more.
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 20.0
    timeout_s: float = 60.0
    redirects: int = 5
    attempts: int = 3
    concurrency: int = 32
    concurrency_per_host: int = 16
    allow_private_addresses: bool = False
    memory_bytes: int = 128 << 20


@dataclass(frozen=True)
class FetchPolicy:
    """What may be read, and where.

    Attributes:
        roots: absolute folders; a uri's path outside all of them is `forbidden`; of S3 their
            buckets count.
        column: the image column of the parquet files that rows are read from.
    """

    roots: tuple[str, ...] = ()
    column: str = ""
    max_bytes: int = MAX_BYTES
    download: DownloadPolicy = field(default_factory=DownloadPolicy)


_NO_UTF8 = re.compile("[\udc80-\udcff]")

Fetch = Callable[[Reference], Buffer]
Locate = Callable[[Reference], Reference]


def url_of(reference: Reference, roots: Sequence[str] = ()) -> str | None:
    """Return the http(s) url or the URI in S3 that must be downloaded for this reference; None for none.

    Args:
        reference: what is to be read.
        roots: as `FetchPolicy` has them; what lies in none of their buckets is not downloaded.
    """
    uri = (reference.uri or "").strip()  # lists are typed and scraped: blanks around a url are not of it
    if not uri or reference.inline is not None or is_inline_text(uri):
        return None
    if uri_scheme(uri) in ("http", "https"):
        return _NO_UTF8.sub(lambda found: f"%{ord(found[0]) & 0xFF:02X}", uri)
    path = joined_path(reference.base or "", uri)
    return _NO_UTF8.sub("\ufffd", path) if is_s3(path) and _is_allowed(path, roots) else None


def _is_allowed(path: str, roots: Sequence[str]) -> bool:
    """Say whether this is in a bucket of one of the roots: what may be read there is the store's to say."""
    return split_s3(path)[0] in {split_s3(root)[0] for root in roots if is_s3(root)}


def make_locate(policy: FetchPolicy) -> Locate:
    """Return the step that must see the references in their order: it turns a parquet row into bytes.

    It belongs to one thread; what it returns can go to `make_fetch`'s function on any.
    """
    reader = RowReader(policy.column)

    def locate(reference: Reference) -> Reference:
        if reference.file is None or reference.row is None:
            return reference
        data, path = reader.read(reference.file, reference.row, reference.version or "")
        if data is None and path:  # Hugging Face datasets: null bytes mean the path
            return Reference(uri=path, base=parent_folder(spark_path(reference.file)))
        return Reference(data)

    return locate


def make_fetch(policy: FetchPolicy) -> Fetch:
    """Return the function that turns a reference into bytes, or raises an `ImageError`; not for downloads."""
    roots = [root if is_s3(root) else os.path.realpath(root) for root in policy.roots]
    ranges = RangeReader()

    def fetch(reference: Reference) -> Buffer:
        data = reference.inline
        if reference.missing:
            raise ImageError("not_found", reference.missing)
        if reference.offset is not None:
            data = _read_range(ranges, reference, policy.max_bytes)
        elif data is None and reference.uri and is_inline_text(reference.uri):
            data = decode_inline_text(reference.uri)
        elif data is None:
            data = _read_file(_allowed_path(reference, roots), policy.max_bytes)
        if len(data) > policy.max_bytes:
            raise ImageError("too_many_bytes", f"{len(data)} is more than {policy.max_bytes}")
        return data

    return fetch


def _allowed_path(reference: Reference, roots: Sequence[str]) -> str:
    """Return the path that the uri names, free of symbolic links, so that what is checked is what is read."""
    uri = _stripped(reference)
    if not uri:
        raise ImageError("null_bytes", "the row has neither image bytes nor a uri")
    path = joined_path(reference.base or "", uri)
    if is_s3(path):
        bucket = split_s3(path)[0]
        text = f"not in a bucket that may be read (--allowed_roots s3://{bucket}): {shown_path(path)}"
        raise ImageError("forbidden", text)
    path = local_path(uri) or ""
    if not path:
        # Not the uri itself: it may hold a password.
        raise ImageError("fetch_failed", _unread(uri_scheme(uri)))
    path = os.path.join(reference.base or "", path)
    try:
        real = os.path.realpath(path)
    except ValueError as exc:  # a null character, or one that the file system's encoding lacks
        raise ImageError("not_found", "the path holds a character that no file name can") from exc
    if not any(is_inside(real, root) for root in roots):
        raise ImageError("forbidden", f"{_outside(uri)}: {shown_path(path)}")
    return real


def _stripped(reference: Reference) -> str:
    """Return the uri without the blanks around it, unless a file here has just this name."""
    given = reference.uri or ""
    uri = given.strip()
    is_name = uri != given and not uri_scheme(uri) and not is_s3(reference.base or "")
    return given if is_name and os.path.lexists(os.path.join(reference.base or "", given)) else uri


def _outside(uri: str) -> str:
    if uri.startswith("//"):
        return "a path, for a url begins with https:// or its like"
    return "outside the folders that may be read (--allowed_roots)"


def _unread(scheme: str) -> str:
    return f"{scheme}: only http, https, S3 and local files are read"


def _read_range(ranges: RangeReader, reference: Reference, max_bytes: int) -> bytes:
    n_bytes = reference.length or 0
    if n_bytes > max_bytes:
        raise ImageError("too_many_bytes", f"{n_bytes} is more than {max_bytes}")
    return ranges.read(reference.file or "", reference.offset or 0, n_bytes, reference.version or "")


def _read_file(path: str, max_bytes: int) -> bytes:
    try:
        # Without O_NONBLOCK the open of a named pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not_found", f"not a regular file: {shown_path(path)}")
            if status.st_size > max_bytes:
                raise ImageError("too_many_bytes", f"{status.st_size} is more than {max_bytes}")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise ImageError("not_found", shown_path(path)) from exc
    except PermissionError as exc:
        raise ImageError("forbidden", f"permission denied: {shown_path(path)}") from exc
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # a socket
            raise ImageError("not_found", f"not a regular file: {shown_path(path)}") from exc
        raise ImageError("fetch_failed", f"{exc.strerror}: {shown_path(path)}") from exc
