"""Files of JSON lines that are still being written: one line at a time; knows not what a line says."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

from spark_embed.errors import StorageError
from spark_embed.storage import is_s3, list_folder, open_binary

SUFFIX = ".jsonl"
READ_THREADS = 8
"""Files that are worth reading at once: in S3 they are small and many."""


def list_files(folder: str) -> list[tuple[str, int]]:
    """Return the paths and sizes of a folder's files.

    Raises:
        StorageError: it cannot be listed.
    """
    files = (file for file in list_folder(folder) if file.path.endswith(SUFFIX))
    return [(f"{folder}/{file.path}", file.n_bytes) for file in files]


def read_at(path: str, start: int, n_bytes: int = -1) -> bytes:
    """Return bytes from an offset on; none of a file that is gone.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with open_binary(path) as file:
            file.seek(start)
            return file.read(n_bytes)
    except FileNotFoundError:  # of another run, which has ended
        return b""
    except OSError as exc:
        raise StorageError(f"{path}: cannot be read: {exc}") from exc


def read_lines(path: str, start: int) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield offset, length and values of whole lines; what a full disk or a kill has left of one is none.

    One at a time: a file may be larger than memory; an object in S3 is not.

    Raises:
        StorageError: it cannot be read.
    """
    offset = start
    try:
        with io.BytesIO(read_at(path, start)) if is_s3(path) else open_binary(path) as file:
            if not is_s3(path):
                file.seek(start)
            for line in file:
                values = _values(line) if line.endswith(b"\n") else None
                if values is not None:
                    yield offset, len(line), values
                offset += len(line)
    except FileNotFoundError:  # of another run, which has ended
        return
    except OSError as exc:
        raise StorageError(f"{path}: cannot be read: {exc}") from exc


def _values(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None
