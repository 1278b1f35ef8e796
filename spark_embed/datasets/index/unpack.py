"""Compressed tars are unpacked once, beside the index: nothing inside one can be found without all before it.

Which compression a file has its first bytes say, whatever its name is. Knows nothing of what is in a tar.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import pyarrow as pa

from spark_embed.errors import StorageError
from spark_embed.storage import is_disk_full, open_binary, replaced_file

_CHUNK_BYTES = 1 << 20
_HEAD_BYTES = 6
# More than pictures can be compressed by, once it is more than fits in memory.
_MAX_RATIO = 100
_FREE_BYTES = 1 << 30

_OPENERS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),  # RFC 1952, 2.3.1
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,  # The .xz File Format, 2.1.1.1
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(file, "zstd"),  # RFC 8878, 3.1.1
}


def is_compressed(head: bytes) -> bool:
    """Say whether a file that begins with `head` is compressed in a way that is read here."""
    return _opener(head) is not None


def _opener(head: bytes) -> Callable[[BinaryIO], Any] | None:
    return next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)


def unpack(path: str, to: str) -> None:
    """Write what a compressed file holds to another one, in little memory.

    Raises:
        StorageError: it cannot be read, it is damaged or cut off, or it would fill any disk.
    """
    with replaced_file(to) as staged, open(staged, "wb") as out:
        try:
            _unpack(path, out)
        except (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, OSError) as exc:
            if isinstance(exc, OSError) and is_disk_full(exc):
                raise  # nothing is wrong with the file
            raise StorageError(f"{path}: cannot be unpacked: {exc}") from exc


def _unpack(path: str, out: BinaryIO) -> None:
    n_bytes = 0
    with open_binary(path) as file:
        opener = _opener(file.read(_HEAD_BYTES))
        file.seek(0)
        with opener(file) if opener else file as unpacked:
            while chunk := unpacked.read(_CHUNK_BYTES):
                n_bytes += out.write(chunk)
                if n_bytes > max(_FREE_BYTES, _MAX_RATIO * file.tell()):
                    raise OSError(
                        f"more than {_MAX_RATIO} times its size; unpack it yourself if it is no bomb"
                    )
