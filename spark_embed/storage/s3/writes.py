"""Writes and deletes small objects of S3: whole, and where it matters only what is known to be there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache

from spark_embed.storage.paths import split_s3
from spark_embed.storage.s3.client import client_for
from spark_embed.storage.s3.errors import S3ChangedError, S3NotFoundError, S3UnsupportedError, as_s3_error
from spark_embed.storage.s3.file import etag_of, read_object

logger = logging.getLogger(__name__)


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
    if put_if(path, data, IfNoneMatch="*") is None:
        raise S3ChangedError("there is another one already")


def replace_bytes(path: str, data: bytes, may_replace: Callable[[bytes | None], bool]) -> bool:
    """Write an object over what `may_replace` has seen and no other, as far as the store can tell."""
    there, condition = None, {"IfNoneMatch": "*"}
    with suppress(FileNotFoundError):
        there, etag = read_object(path)
        condition = {"IfMatch": f'"{etag}"'}
    return may_replace(there) and put_if(path, data, **condition) is not None


def put_if(path: str, data: bytes, **condition: str) -> str | None:
    """Write an object and return its ETag, None if the condition does not hold; see `put`.

    A store that has no conditions is warned of, once, and written to without.
    """
    try:
        return put(path, data, **condition)
    except S3UnsupportedError:
        _warn(split_s3(path)[0])
        return put(path, data)
    except S3NotFoundError:
        if "IfMatch" not in condition:  # the bucket is gone
            raise
    except S3ChangedError:  # maybe by ourselves: a write whose answer was lost is sent again
        with suppress(FileNotFoundError):
            there, etag = read_object(path)
            return etag if there == data else None
    return None


def delete_if(path: str, etag: str) -> None:
    """Delete an object if it is the one of the ETag, or the store does not know this condition."""
    with suppress(S3ChangedError, S3NotFoundError):  # AWS says the latter if there is none
        try:
            delete_object(path, IfMatch=f'"{etag}"')
        except S3UnsupportedError:
            delete_object(path)


def delete_object(path: str, **condition: str) -> None:
    """Delete an object, if there is one; IfMatch=ETag: only that one."""
    bucket, key = split_s3(path)
    with as_s3_error(path):
        client_for(bucket).delete_object(Bucket=bucket, Key=key, **condition)


def check_conditions(path: str, data: bytes) -> None:
    """Write an object once more where it must be refused: some stores ignore a condition without a word."""
    with suppress(S3ChangedError, S3UnsupportedError):
        put(path, data, IfNoneMatch="*")
        _warn(split_s3(path)[0])


@cache
def _warn(bucket: str) -> None:
    logger.warning(
        "bucket %s: this store has no conditional writes (If-None-Match, If-Match): see to it that only one "
        "run works on --output_dir",
        bucket,
    )
