"""What is in a file: read, or written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from spark_embed.errors import StorageError
from spark_embed.storage.files import StoredFile, is_disk_full, no_space_error, write_error
from spark_embed.storage.paths import is_s3
from spark_embed.storage.s3.download import download_object
from spark_embed.storage.s3.file import S3File
from spark_embed.storage.s3.store import upload_file
from spark_embed.storage.store import create, open_binary, read_bytes, replace_bytes, write_bytes


def parquet_input(path: str, known: StoredFile | None = None) -> str | BinaryIO:
    """Return what pyarrow reads a file from: of a local one its path, which is fastest.

    Args:
        path: of the file.
        known: what `stat` has said of it; with it, an object is read only as long as it is still that.

    Raises:
        OSError: it cannot be opened.
    """
    if not is_s3(path):
        return path
    return open_binary(path) if known is None else cast(BinaryIO, S3File(path, known.n_bytes, known.etag))


def download(path: str, to: str, known: StoredFile) -> None:
    """Write the object at `path` to a file on this machine; it is stored for good by then.

    Args:
        path: of an object in S3.
        to: of the file; what is left of it after an exception is nothing to use.
        known: what a listing has said of the object; another one by now is refused.

    Raises:
        StorageError: it cannot be read or written.
    """
    try:
        download_object(path, to, known)
    except OSError as exc:
        if is_disk_full(exc):
            raise no_space_error(to, known.n_bytes) from exc
        detail = str(exc).removeprefix(f"{path}: ")
        raise StorageError(f"{path}: cannot be copied to {to}: {detail}") from exc


def upload(file: str, to: str) -> None:
    """Write a file of this machine to the object at `to` in S3, which appears when all of it is there.

    Raises:
        StorageError: it cannot be read or written.
    """
    try:
        upload_file(to, file)
    except OSError as exc:
        raise write_error(to, exc, 0) from exc


def read_text(path: str) -> str | None:
    """Read the text file at `path`; None if there is no such file.

    Raises:
        StorageError: the file cannot be read, or is no UTF-8.
    """
    try:
        return read_bytes(path).decode()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise StorageError(f"{path}: cannot be read: {exc}") from exc


def read_json(path: str) -> Any:
    """Read the JSON file at `path`; None if there is no such file.

    Raises:
        StorageError: the file cannot be read or is not JSON.
    """
    text = read_text(path)
    try:
        return None if text is None else json.loads(text)
    except ValueError as exc:
        raise StorageError(f"{path}: cannot be read as JSON: {exc}") from exc


def write_text(path: str, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the whole new one, never a part.

    Raises:
        StorageError: the file cannot be written.
    """
    data = text.encode()
    try:
        write_bytes(path, data)
    except OSError as exc:
        raise write_error(path, exc, len(data)) from exc


def write_json(path: str, value: Any) -> None:
    """Write `value` to `path` for people to read; as `write_text`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def create_text(path: str, text: str) -> None:
    """Write `text` to `path`, where nothing is yet; a reader sees all of it or nothing.

    Raises:
        StorageError: it cannot be written, or (in S3) there is something else already.
    """
    data = text.encode()
    try:
        create(path, data)
    except OSError as exc:
        raise write_error(path, exc, len(data)) from exc


def replace_text(path: str, text: str, may_replace: Callable[[bytes | None], bool]) -> bool:
    """Write `text` to `path` if what is there may go; in S3 it takes the place of that and of nothing else.

    Args:
        path: of the file.
        text: its new content; a reader sees the old one or all of this.
        may_replace: is given what is there, None for no file; says whether to write.

    Returns:
        False if nothing was written: it may not go, or it was replaced meanwhile.

    Raises:
        StorageError: it cannot be read or written.
    """
    data = text.encode()
    try:
        return replace_bytes(path, data, may_replace)
    except OSError as exc:
        raise write_error(path, exc, len(data)) from exc
