"""An object in S3 -> a file on this machine: some ranges of it at once, each tried until it is whole.

A connection to S3 carries 50 to 100 MB/s, a network many times that.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance-guidelines.html
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from spark_embed.storage.files import StoredFile
from spark_embed.storage.s3.file import S3File

_RANGE_BYTES = 8 << 20
_RANGES_AT_ONCE = 8  # each is in memory twice for a moment: 128 MiB in all


def download_object(path: str, to: str, known: StoredFile) -> None:
    """Write an object to a file, which is on the disk when this returns.

    Args:
        path: its URI.
        to: path of the file; what is left of it after an exception is nothing to use.
        known: size and ETag of the object.

    Raises:
        S3Error: it cannot be read; `S3ChangedError` if it is another object by now.
        OSError: the file cannot be written.
    """

    def copy_range(offset: int) -> None:
        data = S3File(path, known.n_bytes, known.etag).read_at(offset, _RANGE_BYTES)
        with open(to, "r+b") as file:
            file.seek(offset)
            file.write(data)

    with open(to, "wb") as file, ThreadPoolExecutor(_RANGES_AT_ONCE, thread_name_prefix="s3") as pool:
        for _ in pool.map(copy_range, range(0, known.n_bytes, _RANGE_BYTES)):
            pass  # one that fails cancels those after it
        os.fsync(file.fileno())
