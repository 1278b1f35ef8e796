"""Deletes objects of S3 by the thousand, and uploads that nobody completed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import Any

from spark_embed.storage.paths import is_inside
from spark_embed.storage.s3.client import client_for
from spark_embed.storage.s3.errors import S3DeniedError, S3NotFoundError, S3UnsupportedError, as_s3_error

_DELETED_AT_ONCE = 1000  # https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html


def delete_keys(bucket: str, keys: Iterable[str]) -> None:
    """Delete objects, whether they are there or not.

    Raises:
        S3Error: one cannot be deleted.
    """
    keys = iter(keys)
    while batch := list(islice(keys, _DELETED_AT_ONCE)):
        objects: dict[str, Any] = {"Objects": [{"Key": key} for key in batch], "Quiet": True}
        try:
            with as_s3_error(f"s3://{bucket}"):
                answer = client_for(bucket).delete_objects(Bucket=bucket, Delete=objects)
            left = [failed["Key"] for failed in answer.get("Errors", ())]
        except S3UnsupportedError:
            left = batch
        for key in left:  # one by one: tried again where the store was busy, or told why
            with as_s3_error(f"s3://{bucket}/{key}"):
                client_for(bucket).delete_object(Bucket=bucket, Key=key)


def abort_uploads(bucket: str, key: str) -> int:
    """Abort the multipart uploads to a key and below that were never completed; returns how many.

    Nobody sees them, and they are paid for. Who may not list them is not stopped by that.
    """
    path = f"s3://{bucket}/{key}"
    client, n_uploads = client_for(bucket), 0
    with suppress(S3DeniedError, S3UnsupportedError), as_s3_error(path):
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=key):
            for upload in page.get("Uploads", ()):
                if not is_inside(upload["Key"], key):
                    continue
                with suppress(S3NotFoundError), as_s3_error(path):
                    client.abort_multipart_upload(
                        Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    n_uploads += 1
    return n_uploads
