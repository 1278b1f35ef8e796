"""Objects in S3, by the same operations as local.py; every function raises OSError (`S3Error`).

A folder is what the names of objects say: it is there as long as something is in it. Every write is whole or
does not happen; nothing is ever renamed.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, cast

from spark_embed.storage.files import StoredFile, is_disk_full, n_bytes_at, write_error
from spark_embed.storage.paths import spark_scheme, split_s3
from spark_embed.storage.s3.client import client_for
from spark_embed.storage.s3.deletion import abort_uploads, delete_keys
from spark_embed.storage.s3.errors import S3Error, S3NotFoundError, as_s3_error, path_in_error
from spark_embed.storage.s3.file import S3File, etag_of, read_object
from spark_embed.storage.s3.listing import list_objects, list_top
from spark_embed.storage.s3.upload import PART_BYTES, send_file
from spark_embed.storage.s3.writes import create as create
from spark_embed.storage.s3.writes import delete_object, put
from spark_embed.storage.s3.writes import replace_bytes as replace_bytes


def walk(folder: str, in_order: bool = True) -> Iterator[StoredFile]:
    """Yield the objects below `folder`, those and folders whose name begins with a dot left out.

    In the order of their keys in any case, page by page: nothing holds them all.
    """
    bucket, prefix = _bucket_and_prefix(folder)
    for item in list_objects(bucket, prefix):
        path = item["Key"][len(prefix) :]
        if not path or path.endswith("/"):  # what consoles make for an empty folder
            continue
        names = path.split("/")
        if any(name.startswith(".") and "=" not in name and name not in (".", "..") for name in names):
            continue
        if any(name in ("", ".", "..") for name in names):
            raise S3Error(f"{path!r}: Hadoop cannot read such a key; rename or delete it")
        yield _stored_file(path, item)


def _stored_file(path: str, item: dict[str, Any]) -> StoredFile:
    modified_ns = math.floor(item["LastModified"].timestamp()) * 10**9
    return StoredFile(
        path, item["Size" if "Size" in item else "ContentLength"], modified_ns, etag=etag_of(item)
    )


def list_names(folder: str) -> list[str]:
    """Return the names in `folder`, sorted; none if there is nothing in it."""
    bucket, prefix = _bucket_and_prefix(folder)
    found = (item.get("Key") or item["Prefix"] for item in list_top(bucket, prefix))
    return sorted({name for key in found if (name := key[len(prefix) :].rstrip("/"))})


def list_folder(folder: str) -> list[StoredFile]:
    """Return the objects in `folder` itself, sorted by name; none if there is nothing in it."""
    bucket, prefix = _bucket_and_prefix(folder)
    found = []
    for item in list_top(bucket, prefix):
        name = item.get("Key", "")[len(prefix) :]
        if name not in ("", ".", "..") and "/" not in name:  # no store's answer leads out of a folder
            found.append(_stored_file(name, item))
    return sorted(found, key=lambda file: file.path)


def stat(path: str) -> StoredFile:
    """Return what there is to know of an object without reading it."""
    with path_in_error(path):
        return _head(path)


def _head(path: str) -> StoredFile:
    bucket, key = split_s3(path)
    with as_s3_error(path):
        return _stored_file(path, client_for(bucket).head_object(Bucket=bucket, Key=key))


def exists(path: str) -> bool:
    """Say whether there is an object at `path`, or something below it."""
    return is_file(path) or is_folder(path)


def is_folder(path: str) -> bool:
    """Say whether there is something below `path`; a bucket that is there is a folder, too, empty or not."""
    bucket, prefix = _bucket_and_prefix(path)
    with as_s3_error(path):
        found = client_for(bucket).list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    return bool(found.get("Contents")) or not prefix


def make_folder(path: str) -> None:
    """Do nothing: a folder is there when something is in it."""


def open_binary(path: str) -> BinaryIO:
    """Open an object for reading."""
    return cast(BinaryIO, S3File(path))


@contextmanager
def replaced_file(path: str) -> Iterator[str]:
    """Give the path of a file on this machine that becomes the object at `path` when the `with` block ends.

    Raises:
        StorageError: it cannot be written.
    """
    n_bytes = 0
    try:
        with tempfile.TemporaryDirectory(prefix="spark_embed-", ignore_cleanup_errors=True) as folder:
            staged = os.path.join(folder, "staged")
            try:
                yield staged
            finally:
                n_bytes = n_bytes_at(staged)
            upload_file(path, staged)
    except OSError as exc:
        # No space is this machine's.
        raise write_error(tempfile.gettempdir() if is_disk_full(exc) else path, exc, n_bytes) from exc


def upload_file(path: str, file: str) -> None:
    """Write an object with the content of a file on this machine, of any size."""
    with open(file, "rb") as opened:
        if n_bytes_at(file) > PART_BYTES:
            send_file(opened, path)
        else:
            put(path, opened.read())


def write_bytes(path: str, data: bytes) -> None:
    """Write an object; a reader sees the old one or the whole new one."""
    put(path, data)


def read_bytes(path: str) -> bytes:
    """Return the content of an object."""
    return read_object(path)[0]


def free_bytes(path: str) -> float:
    """Return how much can be stored there: S3 has no end."""
    return math.inf


def delete(path: str) -> None:
    """Delete the object at `path` and all below it."""
    bucket, key = split_s3(path)
    if key:
        delete_file(path)
    keys = (item["Key"] for item in list_objects(*_bucket_and_prefix(path)))
    delete_keys(bucket, keys)


def is_file(path: str) -> bool:
    """Say whether there is an object at `path`."""
    if not split_s3(path)[1]:
        return False
    with suppress(S3NotFoundError):
        _head(path)
        return True
    return False


def delete_file(path: str) -> None:
    """Delete the object at `path`, if there is one, and nothing below it."""
    delete_object(path)


def make_way(path: str, aside: str, /, *, for_folder: bool) -> None:
    """Copy what is at `path` aside; an object that another one will replace stays.

    An object and others below its name can be there together, but not in every store.
    """
    if is_file(path):
        _copy(path, aside)
        if for_folder:
            delete_file(path)
    elif not for_folder:
        copy_tree(path, aside)
        delete(path)


def put_back(aside: str, path: str, /) -> None:
    """Copy it back, so that cut off anywhere it can be done again: nothing of which there is no copy goes."""
    if is_file(aside):
        delete_keys(split_s3(path)[0], (item["Key"] for item in list_objects(*_bucket_and_prefix(path))))
    else:  # the copy may be a part, and the rest in its place; what is of neither is deleted as unlisted
        delete_file(path)
    copy_tree(aside, path)
    delete(aside)


def _copy(path: str, to: str) -> None:
    bucket, key = split_s3(path)
    to_bucket, to_key = split_s3(to)
    with as_s3_error(path):
        client_for(bucket).copy({"Bucket": bucket, "Key": key}, to_bucket, to_key)


def delete_uploads(path: str) -> int:
    """Give up the multipart uploads to `path` and below that were never completed; returns how many."""
    return abort_uploads(*split_s3(path))


def copy_tree(path: str, to: str, /) -> None:
    """Make the object at `path` and all below it appear at `to` as well; the store copies them."""
    bucket, prefix = _bucket_and_prefix(path)
    if is_file(path):
        _copy(path, to)
    for item in list_objects(bucket, prefix):
        if item["Key"].endswith("/"):  # what consoles make for an empty folder
            continue
        _copy(_object_path(bucket, item["Key"]), f"{to}/{item['Key'][len(prefix) :]}")


def check_writable(folder: str) -> None:
    """Do nothing: the run's first write, of its lock, says so."""


def _bucket_and_prefix(folder: str) -> tuple[str, str]:
    bucket, key = split_s3(folder)
    return bucket, f"{key}/" if key else ""


def _object_path(bucket: str, key: str) -> str:
    return f"{spark_scheme()}://{bucket}/{key}"
