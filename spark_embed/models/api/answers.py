"""Answers kept as they come, so that no later attempt or run pays for them again; asks nobody.

A folder of the run's state, and in it files of JSON lines: `{"sent": key}` before a request goes,
`{"unpaid": key}` where an attempt cannot have cost anything, `{"spoiled": key}` where it has brought what is
no answer, and the answer, with what it says of itself.
On a disk each process appends to a file of its own, one write for each line. In S3 a file is an object of at
most 50 answers, or of 5 seconds.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from spark_embed.models.api.lines import READ_THREADS, SUFFIX, list_files, read_at, read_lines
from spark_embed.storage import is_s3, make_folder, write_error, write_text

_MAX_ANSWERS, MAX_AGE_S = 50, 5.0


class _Place(NamedTuple):
    """Where a line is."""

    path: str
    offset: int
    n_bytes: int


class Answers:
    """The answers of a folder, by the keys of their requests. Thread-safe.

    Args:
        folder: None: nothing is kept.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._is_remote = folder is not None and is_s3(folder)
        self._name = uuid.uuid4().hex
        self._lock, self._refreshing, self._flushing = (threading.Lock() for _ in range(3))
        self._places: dict[bytes, _Place | str] = {}  # a str: the line itself, which is not stored yet
        self._read_to: dict[str, int] = {}
        self._usage, self._n_answers = Counter[str](), 0
        self._file: int | None = None
        self._buffer: list[str] = []
        self._n_buffered, self._buffered_since, self._n_objects = 0, 0.0, 0

    @property
    def usage(self) -> tuple[int, dict[str, float]]:
        """How many answers are known, spoiled ones too, and what they have used together."""
        with self._lock:
            return self._n_answers, dict(self._usage)

    def refresh(self) -> None:
        """Take in what others have kept since, and earlier runs; a folder that was deleted is forgotten.

        Raises:
            StorageError: the folder cannot be read.
        """
        if self._folder is None:
            return
        with self._refreshing, ThreadPoolExecutor(READ_THREADS) as pool:
            with self._lock:
                known = set(self._read_to)
            listed = dict(list_files(self._folder))
            if known - listed.keys():
                self._forget()
            new = [
                (path, self._read_to.get(path, 0))
                for path, n_bytes in listed.items()
                if n_bytes > self._read_to.get(path, 0) and self._name not in path
            ]
            list(pool.map(lambda one: self._take_in(*one), new))

    def find(self, key: str) -> str | None:
        """Return the answer to a request; None if there is none.

        Raises:
            StorageError: it cannot be read.
        """
        with self._lock:
            place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        line = place if isinstance(place, str) else read_at(place.path, place.offset, place.n_bytes).decode()
        return str(json.loads(line)["answer"]) if line else None  # deleted since

    def sent(self, key: str) -> None:
        """Note that a request goes."""
        self._append({"sent": key})

    def unpaid(self, key: str) -> None:
        """Note that an attempt has come to nothing that anybody would charge for."""
        self._append({"unpaid": key})

    def spoiled(self, key: str) -> None:
        """Note that an attempt has brought what is no answer, and may have been charged for as one."""
        self._append({"spoiled": key})

    def add(self, key: str, answer: str, usage: dict[str, float], model: str | None) -> None:
        """Keep an answer; on a disk it is stored when this returns.

        Raises:
            StorageError: it cannot be stored.
        """
        values = {"key": key, "usage": usage, "model": model, "answer": answer}
        self._append(values, key)

    @property
    def is_due(self) -> bool:
        """Whether what is not stored yet should be, by number or age."""
        age_s = time.monotonic() - self._buffered_since
        return bool(self._buffer) and (self._n_buffered >= _MAX_ANSWERS or age_s >= MAX_AGE_S)

    def flush(self, *, if_due: bool = False) -> None:
        """Store what is not; blocks.

        Args:
            if_due: only if nobody else has meanwhile.

        Raises:
            StorageError: it cannot be stored.
        """
        with self._flushing:
            if if_due and not self.is_due:
                return
            with self._lock:
                lines, self._n_buffered, self._buffered_since = self._buffer[:], 0, time.monotonic()
                path = f"{self._folder}/{self._name}-{self._n_objects:06d}{SUFFIX}"
            if not lines:
                return
            write_text(path, "".join(lines))
            offset = 0
            with self._lock:
                # Only now: of a write that fails nothing is lost, and the next one takes its place.
                del self._buffer[: len(lines)]
                self._n_objects += 1
                for line in lines:
                    n_bytes = len(line.encode())
                    if key := json.loads(line).get("key"):
                        self._places[bytes.fromhex(key)] = _Place(path, offset, n_bytes)
                    offset += n_bytes
                self._read_to[path] = offset

    def _append(self, values: dict[str, Any], key: str | None = None) -> None:
        if self._folder is None:
            return
        line = json.dumps(values) + "\n"
        with self._lock:
            if self._is_remote:
                if not self._buffer:
                    self._buffered_since = time.monotonic()
                self._buffer.append(line)
                self._n_buffered += key is not None
                place: _Place | str = line
            else:
                place = self._write(line.encode())
            self._count(values, place)

    def _write(self, data: bytes) -> _Place:
        path = f"{self._folder}/{self._name}{SUFFIX}"
        try:
            if self._file is None:
                make_folder(self._folder or "")
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            offset = os.lseek(self._file, 0, os.SEEK_END)
            if os.write(self._file, data) < len(data):
                raise OSError("only a part of it could be written")
        except OSError as exc:
            raise write_error(path, exc, len(data)) from exc
        self._read_to[path] = offset + len(data)
        return _Place(path, offset, len(data))

    def _forget(self) -> None:
        """Forget all but what is not stored yet, and begin a new file: what there was is read again."""
        with self._flushing, self._lock:
            self._places.clear()
            self._read_to.clear()
            self._usage, self._n_answers = Counter(), 0
            if self._file is not None:
                os.close(self._file)
            self._file, self._name, self._n_objects = None, uuid.uuid4().hex, 0
            for line in self._buffer:
                self._count(json.loads(line), line)

    def _take_in(self, path: str, start: int) -> None:
        """Take in lines from an offset on."""
        for offset, n_bytes, values in read_lines(path, start):
            with self._lock:
                self._count(values, _Place(path, offset, n_bytes))
                self._read_to[path] = offset + n_bytes

    def _count(self, values: dict[str, Any], place: _Place | str) -> None:
        if key := values.get("key"):
            self._places[bytes.fromhex(key)] = place
            self._usage.update(values["usage"])
        self._n_answers += "key" in values or "spoiled" in values
