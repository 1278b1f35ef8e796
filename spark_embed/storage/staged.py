"""Files that are written now and appear under their names later, all of a publishing within a moment."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from spark_embed.errors import StorageError
from spark_embed.storage import local
from spark_embed.storage.files import write_error
from spark_embed.storage.paths import is_s3
from spark_embed.storage.s3 import store as s3
from spark_embed.storage.s3.upload import S3Upload, complete_upload


class StagedFile(Protocol):
    """A file that is being written.

    Attributes:
        sink: what pyarrow writes to.
    """

    sink: Any

    def finish(self) -> int:
        """Make it whole, to be found at its staged path; returns its bytes. `sink` is closed by now.

        Raises:
            OSError: it cannot be stored.
        """

    def discard(self) -> None:
        """Give it up."""


def stage_file(staged: str, path: str) -> StagedFile:
    """Begin a file.

    Args:
        staged: the path at which `publish_file` finds it.
        path: the path at which it will appear.

    Raises:
        OSError: it cannot be begun.
    """
    return _StagedObject(staged, path) if is_s3(path) else _StagedOnDisk(staged)


@contextmanager
def staged_file(staged: str, path: str) -> Iterator[Any]:
    """Give what pyarrow writes a file to; it is whole, to be published, when the `with` block ends.

    Args:
        staged: the path at which `publish_file` finds it; no other attempt's.
        path: the path at which it will appear.

    Raises:
        StorageError: it cannot be stored.
    """
    try:
        file = stage_file(staged, path)
        try:
            yield file.sink
            file.finish()
        except BaseException:
            file.discard()
            raise
    except OSError as exc:
        raise write_error(path, exc, 0) from exc


def publish_file(staged: str, path: str) -> None:
    """Let a file that is whole appear at `path`.

    Raises:
        StorageError: it cannot.
    """
    try:
        if is_s3(path):
            complete_upload(s3.read_bytes(staged).decode())
        else:
            local.move(staged, path)
            local.sync(os.path.dirname(path))
    except OSError as exc:
        raise StorageError(f"{path}: cannot be published: {exc}") from exc


class _StagedOnDisk:
    """A file beside others of its publishing, on the same file system as its place."""

    def __init__(self, staged: str) -> None:
        self._staged = staged
        # Two attempts at a task may run at once (speculation, an executor that was given up).
        name = f".{os.path.basename(staged)}.{uuid.uuid4().hex}.tmp"
        self.sink = os.path.join(os.path.dirname(staged), name)

    def finish(self) -> int:
        local.sync(self.sink)  # the waves that it is made from are deleted once it is published
        n_bytes = os.path.getsize(self.sink)
        local.move(self.sink, self._staged)
        return n_bytes

    def discard(self) -> None:
        with suppress(OSError):
            os.unlink(self.sink)


class _StagedObject:
    """An upload to its place; at the staged path is its receipt."""

    def __init__(self, staged: str, path: str) -> None:
        self._staged = staged
        self.sink = S3Upload(path)

    def finish(self) -> int:
        s3.write_bytes(self._staged, self.sink.finish().encode())
        return self.sink.n_bytes

    def discard(self) -> None:
        with suppress(OSError):
            self.sink.discard()
