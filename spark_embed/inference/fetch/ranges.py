"""Ranges of bytes of files, such as the members of a tar, read by the worker itself; knows no Spark.

Safe on many threads at once: a range is read with one call that says where.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

from spark_embed.errors import StorageError
from spark_embed.storage import file_version, is_s3, local_path, stat
from spark_embed.storage.s3.file import S3File

_MAX_OPEN = 4


class RangeReader:
    """Reads ranges; the last few files stay open, because a task's rows come file by file."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, str], _OpenFile | S3File] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: str, offset: int, n_bytes: int, version: str) -> bytes:
        """Return `n_bytes` from `offset` on.

        Raises:
            OSError: the file cannot be reached from here.
            StorageError: the file is not the one that was planned with (`file_version`), or ends before.
        """
        file = self._file(path, version)
        try:
            data = file.read_at(offset, n_bytes)
        except OSError as exc:
            raise StorageError(f"{path}: cannot be read: {exc}") from exc
        if len(data) < n_bytes:
            raise StorageError(f"{path}: ends before byte {offset + n_bytes}; run again")
        return data

    def _file(self, path: str, version: str) -> _OpenFile | S3File:
        with self._lock:
            file = self._open.pop((path, version), None) or _open(path, version)
            self._open[path, version] = file
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
            return file


def _open(path: str, version: str) -> _OpenFile | S3File:
    if not is_s3(path):
        return _OpenFile(local_path(path) or path, version)
    found = stat(path)
    if file_version(found.n_bytes, found.modified_ns, found.etag) != version:
        raise StorageError(f"{path} changed while it was being read; run again")
    return S3File(path, found.n_bytes, found.etag)


class _OpenFile:
    """A file that is closed when the last thread that reads it has let go of it."""

    def __init__(self, path: str, version: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        if file_version(status.st_size, status.st_mtime_ns) != version:
            raise StorageError(f"{path} changed while it was being read; run again")

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        parts = []
        while n_bytes and (part := os.pread(self._descriptor, n_bytes, offset)):
            parts.append(part)
            offset, n_bytes = offset + len(part), n_bytes - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __del__(self) -> None:
        if (descriptor := getattr(self, "_descriptor", None)) is not None:
            os.close(descriptor)
