"""Writes small objects of S3: whole, and where it matters only over what is known to be there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from spark_embed.storage.paths import split_s3
from spark_embed.storage.s3.client import client_for
from spark_embed.storage.s3.errors import S3ChangedError, S3NotFoundError, S3UnsupportedError, as_s3_error
from spark_embed.storage.s3.file import etag_of, read_object


def put(path: str, data: bytes, **conditions: str) -> str:
    """Write an object and return its ETag.

    Args:
        path: of the object.
        data: its content.
        conditions: IfNoneMatch="*" (only where nothing is), IfMatch=ETag (only over that content).

    Raises:
        S3ChangedError: a condition does not hold.
        S3UnsupportedError: the store knows no conditions.
    """
    bucket, key = split_s3(path)
    with as_s3_error(path):
        return etag_of(client_for(bucket).put_object(Bucket=bucket, Key=key, Body=data, **conditions))


def create(path: str, data: bytes) -> None:
    """Write an object where nothing is yet, as far as the store can tell.

    Raises:
        S3ChangedError: another one is there.
    """
    if not _put_if(path, data, IfNoneMatch="*"):
        raise S3ChangedError("there is another one already")


def replace_bytes(path: str, data: bytes, may_replace: Callable[[bytes | None], bool]) -> bool:
    """Write an object over what `may_replace` has seen and no other, as far as the store can tell."""
    there, condition = None, {"IfNoneMatch": "*"}
    with suppress(FileNotFoundError):
        there, etag = read_object(path)
        condition = {"IfMatch": f'"{etag}"'}
    if not may_replace(there):
        return False
    try:
        return _put_if(path, data, **condition)
    except S3NotFoundError:
        if there is None:  # the bucket is gone
            raise
        return False


def _put_if(path: str, data: bytes, **condition: str) -> bool:
    """Write an object; False if the condition does not hold, as far as the store knows of conditions."""
    try:
        put(path, data, **condition)
    except S3UnsupportedError:
        put(path, data)
    except S3ChangedError:
        return _is_there(path, data)
    return True


def _is_there(path: str, data: bytes) -> bool:
    """Say whether an object is what was to be written: a write whose answer was lost is sent again."""
    with suppress(FileNotFoundError):
        return read_object(path)[0] == data
    return False
