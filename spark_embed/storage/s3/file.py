"""An object in S3 as a file to read: ranges of it, ahead of who reads on, each tried until it is whole.

Small reads here and there cost a request of that size; reads one after the other cost requests that double
up to some megabytes, the next one under way while this one is being used.
"""

from __future__ import annotations

import io
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

from spark_embed.storage.paths import split_s3
from spark_embed.storage.s3.client import client_for, traffic
from spark_embed.storage.s3.errors import (
    S3BrokenOffError,
    S3UnsupportedError,
    as_s3_error,
    path_in_error,
    without_password,
)
from spark_embed.storage.s3.patience import Tries

_FIRST_BYTES = 256 << 10
_MAX_BYTES = 8 << 20
_GAP_BYTES = 1 << 20  # so little left out still counts as reading on
_PART_BYTES = 1 << 20
_N_THREADS = 8


class _Window(NamedTuple):
    """Bytes of an object that are here, from `start` on."""

    start: int
    data: memoryview

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def part(self, offset: int, size: int) -> memoryview:
        """Return what there is here of `size` bytes from `offset` on; nothing if that begins elsewhere."""
        first = offset - self.start
        return self.data[first : first + size] if first >= 0 else self.data[:0]


class S3File(io.RawIOBase):
    """An object, opened for reading; all that is read is of one content. Safe on several threads at once.

    Args:
        path: its URI.
        n_bytes, etag: of the object, where they are known; else the first request finds them out.

    Raises:
        S3Error: it cannot be read; `S3ChangedError` if it is another object by now.
    """

    def __init__(self, path: str, n_bytes: int | None = None, etag: str = "") -> None:
        self._path = path
        self._bucket, self._key = split_s3(path)
        self._position = 0
        self._lock = threading.RLock()
        # The last two windows: threads that take neighbours in turn do not ask for them quite in order.
        self._had = self._have = _Window(0, memoryview(b""))
        self._next: tuple[int, int, Future[memoryview]] | None = None
        self._step = _FIRST_BYTES
        if n_bytes is None:
            with path_in_error(path), as_s3_error(path):
                head = client_for(self._bucket).head_object(Bucket=self._bucket, Key=self._key)
            n_bytes, etag = head["ContentLength"], etag_of(head)
        self.n_bytes: int = n_bytes
        self.etag = etag

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return where the next `read` begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set where the next `read` begins."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.n_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return the next `size` bytes, all that are left by default; fewer only at the end."""
        data = self.read_at(self._position, self.n_bytes if size is None or size < 0 else size)
        self._position += len(data)
        return data

    def readall(self) -> bytes:
        """Return all that is left."""
        return self.read()

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; returns how many bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on, fewer only at the end; on any thread."""
        size = max(0, min(size, self.n_bytes - offset))
        parts = []
        with self._lock:
            while size:
                part = self._have.part(offset, size) or self._had.part(offset, size)
                if not part:
                    self._load(offset, size)
                    continue
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def _load(self, offset: int, size: int) -> None:
        """Get the bytes at `offset`, and begin with those after them if this goes on and on."""
        reads_on = bool(self._have.data) and 0 <= offset - self._have.end <= _GAP_BYTES
        self._had = self._have
        if self._next is not None:
            first, n_bytes, future = self._next
            self._next = None
            if first <= offset < first + n_bytes:
                self._have = _Window(first, future.result())
                self._read_ahead(first + n_bytes)
                return
            future.cancel()
        self._step = min(2 * self._step, _MAX_BYTES) if reads_on else _FIRST_BYTES
        n_bytes = min(max(size, self._step if reads_on or offset == 0 else 0), self.n_bytes - offset)
        self._have = _Window(offset, self._get(offset, n_bytes))
        if reads_on:
            self._read_ahead(offset + n_bytes)

    def _read_ahead(self, offset: int) -> None:
        self._step = min(2 * self._step, _MAX_BYTES)
        n_bytes = min(self._step, self.n_bytes - offset)
        if n_bytes > 0:
            self._next = offset, n_bytes, _readers().submit(self._get, offset, n_bytes)

    def _get(self, offset: int, n_bytes: int) -> memoryview:
        """Return exactly these bytes; a body that breaks off is asked for again from there."""
        data = bytearray()
        with path_in_error(self._path):
            self._get_into(data, offset, n_bytes)
        return memoryview(data)

    def _get_into(self, data: bytearray, offset: int, n_bytes: int) -> None:
        tries = Tries()
        while len(data) < n_bytes:
            before = len(data)
            first, last = offset + before, offset + n_bytes - 1
            options = {"IfMatch": f'"{self.etag}"'} if self.etag else {}
            try:
                _read_into(data, self._path, Range=f"bytes={first}-{last}", **options)
            except S3BrokenOffError as exc:
                if len(data) > before:
                    tries.start_over()
                tries.wait(exc)


def etag_of(answer: dict[str, Any]) -> str:
    """Return the ETag of an answer about an object, as conditions put it between quotes; "" for none."""
    return str(answer.get("ETag", "")).strip('"')


def read_object(path: str) -> tuple[bytes, str]:
    """Return an object and its ETag; with one request, so that a reader sees the old one or the new one.

    Raises:
        S3Error: it cannot be read.
    """
    tries = Tries()
    while True:
        data = bytearray()
        try:
            answer = _read_into(data, path)
        except S3BrokenOffError as exc:
            tries.wait(exc)
        else:
            return bytes(data), etag_of(answer)


def _read_into(data: bytearray, path: str, **options: str) -> dict[str, Any]:
    """Ask for an object, or for a range of it, and append what comes; returns what the store says of it.

    Raises:
        S3BrokenOffError: not all of it came; what did is there.
        S3Error: it cannot be read.
    """
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    bucket, key = split_s3(path)
    before = len(data)
    with as_s3_error(path):
        answer: dict[str, Any] = client_for(bucket).get_object(Bucket=bucket, Key=key, **options)
    if "Range" in options and not _is_of(answer.get("ContentRange", ""), options["Range"]):
        raise S3UnsupportedError("the store, or a proxy before it, does not answer with the range asked for")
    body = answer["Body"]
    try:
        while part := body.read(_PART_BYTES):
            data += part
    # A time-out and a reset of the SDK's are HTTPClientErrors; an OSError is the system's own.
    except (HTTPClientError, IncompleteReadError, OSError) as exc:
        raise S3BrokenOffError(f"the answer broke off: {without_password(exc)}") from exc
    finally:
        body.close()
        traffic.add(0, len(data) - before)
    return answer


def _is_of(content_range: str, wanted: str) -> bool:
    return content_range.replace(" ", "=").startswith(f"{wanted}/")


def _readers() -> ThreadPoolExecutor:
    """Return the threads that read ahead, made when they are needed: a thread does not survive a fork."""
    return _readers_of(os.getpid())


@cache
def _readers_of(pid: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_N_THREADS, thread_name_prefix="s3")
