"""A PNG without what is no pixel: text, profiles, times; decodes nothing.

Pillow reads all chunks on its way to the pixels, and gives a sound picture up for a damaged one, or for a
megabyte of compressed text or profile, which could be a bomb. Nobody needs them here: they go unread.
"""

from __future__ import annotations

import zlib

from spark_embed.inference.decode.pixels import Buffer

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_AROUND = 12  # bytes of a chunk beside its data: length, type, checksum (PNG specification, 5.3)
_MAX_CHUNKS = 100_000  # no encoder writes as many; a walk over more takes seconds

# What makes the pixels of the first frame; without the animation's chunks the first could be another.
_OF_PIXELS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"))

# Uncompressed XMP, which may hold the orientation (PNG specification, 11.3.3.4: keyword, flag, method).
_XMP_START = b"XML:com.adobe.xmp\0\0\0"
_MAX_XMP_BYTES = 1 << 20


def keep_pixel_chunks(view: Buffer) -> bytes | None:
    """Return a PNG with the chunks that its upright pixels need; None if there are no others, or no pixels.

    Of metadata the orientation's stays, where it is sound.
    """
    if bytes(view[:8]) != _SIGNATURE:
        return None
    view = memoryview(view)
    kept = [view[: len(_SIGNATURE)]]
    at, n_chunks, n_dropped = len(_SIGNATURE), 0, 0
    while at < len(view):
        n_chunks += 1
        if n_chunks > _MAX_CHUNKS:
            return None
        end = at + _AROUND + int.from_bytes(view[at : at + 4], "big")
        if _is_wanted(view, at, end):
            kept.append(view[at:end])
        else:
            n_dropped += 1
        at = end
    return b"".join(kept) if n_dropped and any(bytes(chunk[4:8]) == b"IDAT" for chunk in kept) else None


def _is_wanted(view: Buffer, at: int, end: int) -> bool:
    name = bytes(view[at + 4 : at + 8])
    if name in _OF_PIXELS:
        return True
    is_xmp = (
        name == b"iTXt"
        and end - at <= _MAX_XMP_BYTES
        and bytes(view[at + 8 : at + 8 + len(_XMP_START)]) == _XMP_START
    )
    return (name == b"eXIf" or is_xmp) and zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(
        view[end - 4 : end], "big"
    )
