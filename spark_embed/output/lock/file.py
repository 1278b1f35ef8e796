"""The file of a lock, on a disk or in S3: made by one of many, replaced by its owner; knows no owner."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from spark_embed.storage import delete, is_s3
from spark_embed.storage.local import UNSUPPORTED, move
from spark_embed.storage.s3.file import read_object
from spark_embed.storage.s3.writes import check_conditions, delete_if, put_if

# What a file system without flock, or without hard links, answers.
_NO_FLOCK = UNSUPPORTED | {errno.ENOLCK}
_NO_LINKS = UNSUPPORTED | {errno.EPERM}

_STAGED = ".tmp"


class LockFile(Protocol):
    """A file that at most one of all who try makes. Every method raises OSError where the storage fails."""

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep others from judging or writing the file meanwhile, as far as the storage can."""

    def create(self, text: str) -> bool:
        """Make the file with all of its content; False if there is one."""

    def replace(self, text: str) -> bool:
        """Give the file another content; False if it is not the one any more that `read` or we saw last."""

    def read(self) -> str | None:
        """Return its content; None if there is no such file."""

    def delete(self) -> None:
        """Delete it; as far as the storage can, not another that has taken its place since it was read."""


def make_lock_file(path: str) -> LockFile:
    """Return the lock's file at `path`."""
    return ObjectLockFile(path) if is_s3(path) else DiskLockFile(path)


class DiskLockFile:
    """A file on a disk that several machines may share."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._token = uuid.uuid4().hex
        self._is_alone = False  # while it is guarded, on a file system that can

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep others from judging or writing the file meanwhile.

        The file of the guard stays: two runs could hold two files of one name if it were deleted.
        """
        descriptor = os.open(f"{self._path}.guard", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._is_alone = True
            except OSError as exc:
                if exc.errno not in _NO_FLOCK:
                    raise
            yield
        finally:
            self._is_alone = False
            os.close(descriptor)

    def create(self, text: str) -> bool:
        """Make the file with all of its content; False if there is one."""
        os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)
        if self._is_alone:
            for left in glob.glob(f"{glob.escape(self._path)}.*{_STAGED}"):  # by a run that was killed
                delete(left)
        with self._staged(text) as staged, suppress(FileExistsError):
            try:
                os.link(staged, self._path)
            except OSError as exc:
                if exc.errno not in _NO_LINKS:
                    raise
                with open(self._path, "xb"):
                    pass  # has the name, for a moment without content
                move(staged, self._path)
            return True
        return False

    def replace(self, text: str) -> bool:
        """Give the file another content; the guard sees to it that it is still the same."""
        with self._staged(text) as staged:
            move(staged, self._path)
        return True

    def read(self) -> str | None:
        """Return its content; None if there is no such file."""
        try:
            with open(self._path, encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def delete(self) -> None:
        """Delete it."""
        os.unlink(self._path)

    @contextmanager
    def _staged(self, text: str) -> Iterator[str]:
        """Write a file under a name that no run on any machine shares."""
        staged = f"{self._path}.{self._token}.{threading.get_native_id()}{_STAGED}"
        try:
            with open(staged, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            yield staged
        finally:
            delete(staged)


class ObjectLockFile:
    """An object in S3, by conditional writes; a store that has none is warned of, and written to."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._etag = ""
        self._threads = threading.Lock()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep this run's other threads out; of other runs each write has its condition."""
        with self._threads:
            yield

    def create(self, text: str) -> bool:
        """Make the object; False if there is one."""
        found = self.read()  # a store without conditions would write over it
        if found is not None:
            return found == text
        is_made = self._put(text, IfNoneMatch="*")
        if is_made:
            check_conditions(self._path, text.encode())
        return is_made

    def replace(self, text: str) -> bool:
        """Give the object another content; False if it is not the one any more that was seen last."""
        return self._put(text, IfMatch=f'"{self._etag}"')

    def read(self) -> str | None:
        """Return its content; None if there is no such object."""
        try:
            data, self._etag = read_object(self._path)
        except FileNotFoundError:
            return None
        return data.decode(errors="replace")

    def delete(self) -> None:
        """Delete it, but not another one that has taken its place since it was read."""
        delete_if(self._path, self._etag)

    def _put(self, text: str, **condition: str) -> bool:
        etag = put_if(self._path, text.encode(), **condition)
        self._etag = etag or self._etag
        return etag is not None
