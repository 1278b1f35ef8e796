"""The messages between a worker and its decoding child: a JSON header, then plain bytes; knows no image.

On the wire: the header's length (4 bytes, big-endian), the header, the payload. How long a payload is, the
header says in words of its own.
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from spark_embed.inference.decode.pixels import Buffer

_LENGTH_BYTES = 4


def write_message(stream: BinaryIO, header: dict[str, Any], payload: Buffer = b"") -> None:
    """Write one message and flush it.

    Raises:
        BrokenPipeError: the other end is gone.
    """
    encoded = json.dumps(header).encode()
    stream.write(len(encoded).to_bytes(_LENGTH_BYTES, "big") + encoded)
    stream.write(payload)
    stream.flush()


def read_header(stream: BinaryIO) -> dict[str, Any] | None:
    """Read a message up to its payload; None where the other end is gone."""
    length = stream.read(_LENGTH_BYTES)
    if len(length) < _LENGTH_BYTES:
        return None
    n_bytes = int.from_bytes(length, "big")
    encoded = stream.read(n_bytes)
    if len(encoded) < n_bytes:
        return None
    header: dict[str, Any] = json.loads(encoded)
    return header
