"""An object that is written now and appears later: a multipart upload, completed by who has its receipt.

So files that belong together appear together, nothing is copied or renamed, and what a failed task has
written is nobody's. https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

from __future__ import annotations

import io
import json
import uuid
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO

from spark_embed.storage.paths import split_s3
from spark_embed.storage.s3.client import client_for
from spark_embed.storage.s3.errors import S3Error, S3NotFoundError, as_s3_error

# S3 takes 10,000 parts of 5 MiB to 5 GiB, all but the last of at least that. Every thousand parts their size
# doubles: 8 TB in all, more than an object may have, and 8 GB within 24 MiB of memory.
PART_BYTES = 8 << 20
_PARTS_OF_A_SIZE = 1000
_PARTS_AT_ONCE = 2

_MARK = "spark-embed-upload"
"""Of the object's metadata: tells it from another one of the same name and size."""


class S3Upload(io.RawIOBase):
    """A file to write, in order; sent in parts while it is written. Nobody sees it until `complete_upload`.

    Args:
        path: of the object that it will be.

    Raises:
        S3Error: the store does not take it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._bucket, self._key = split_s3(path)
        self._mark = uuid.uuid4().hex
        with as_s3_error(path):
            answer = client_for(self._bucket).create_multipart_upload(
                Bucket=self._bucket, Key=self._key, Metadata={_MARK: self._mark}
            )
        self._upload = {"Bucket": self._bucket, "Key": self._key, "UploadId": answer["UploadId"]}
        self._buffer = bytearray()
        self._pool = ThreadPoolExecutor(_PARTS_AT_ONCE, thread_name_prefix="upload")
        self._sent: list[Future[dict[str, Any]]] = []
        self._waiting: deque[Future[dict[str, Any]]] = deque()
        self.n_bytes = 0

    def writable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return the bytes that were written so far."""
        return self.n_bytes

    def write(self, data: Any) -> int:
        """Add bytes."""
        view = memoryview(data).cast("B")
        self._buffer += view
        self.n_bytes += len(view)
        while len(self._buffer) >= (size := self._part_bytes()):
            self._send(bytes(self._buffer[:size]))
            del self._buffer[:size]
        return len(view)

    def finish(self) -> str:
        """Send what is left; returns the receipt."""
        if self._buffer or not self._sent:
            self._send(bytes(self._buffer))
        parts = [future.result() for future in self._sent]
        self._pool.shutdown()
        return json.dumps({"path": self._path, "upload": self._upload, "parts": parts, "mark": self._mark})

    def discard(self) -> None:
        """Give it up."""
        self._pool.shutdown(cancel_futures=True)
        with as_s3_error(self._path):
            client_for(self._bucket).abort_multipart_upload(**self._upload)

    def _part_bytes(self) -> int:
        return int(PART_BYTES << (len(self._sent) // _PARTS_OF_A_SIZE))

    def _send(self, data: bytes) -> None:
        future = self._pool.submit(self._send_part, len(self._sent) + 1, data)
        self._sent.append(future)
        self._waiting.append(future)
        while len(self._waiting) > _PARTS_AT_ONCE:
            self._waiting.popleft().result()

    def _send_part(self, number: int, data: bytes) -> dict[str, Any]:
        with as_s3_error(self._path):
            answer = client_for(self._bucket).upload_part(**self._upload, PartNumber=number, Body=data)
        return {"PartNumber": number, "ETag": answer["ETag"]}


def complete_upload(receipt: str) -> None:
    """Make an object appear; nothing happens where it has appeared already.

    Raises:
        S3Error: the store does not do it; the upload stays.
    """
    told = json.loads(receipt)
    path, upload = told["path"], told["upload"]
    try:
        with as_s3_error(path):
            client_for(upload["Bucket"]).complete_multipart_upload(
                **upload, MultipartUpload={"Parts": told["parts"]}
            )
    except S3NotFoundError as exc:  # an answer was lost, and asked for again
        if not _is_there(path, told["mark"]):
            raise S3Error("the upload is gone, and the object that it was for is not there") from exc


def _is_there(path: str, mark: str) -> bool:
    bucket, key = split_s3(path)
    try:
        with as_s3_error(path):
            head = client_for(bucket).head_object(Bucket=bucket, Key=key)
    except S3NotFoundError:
        return False
    return bool(head["Metadata"].get(_MARK) == mark)


def send_file(file: BinaryIO, path: str) -> None:
    """Send a large file, which appears when all of it is there.

    Raises:
        S3Error: the store does not take it; nothing is left of it then, as far as the store can be told.
    """
    upload = S3Upload(path)
    try:
        while part := file.read(PART_BYTES):
            upload.write(part)
        complete_upload(upload.finish())
    except BaseException:
        with suppress(S3Error):
            upload.discard()
        raise
