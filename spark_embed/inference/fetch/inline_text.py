"""Images that are written out as text where a uri could stand: data: urls and base64; knows no image format.

A data: url is RFC 2397's. Plain base64 is known by how an image file begins, and by being nothing else.
"""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

from spark_embed.errors import ImageError

_SCHEME = "data:"
_STARTS = (
    "/9j/",  # JPEG
    "iVBORw0KGgo",  # PNG
    "R0lGOD",  # GIF
    "UklGR",  # WebP
    "SUkqA",  # TIFF, either way round
    "TU0AK",
    "Qk",  # BMP
    "AAAADGpQ",  # JPEG 2000
    "AAAAGGZ0eX",  # AVIF and HEIF, of which the first box may be so long,
    "AAAAHGZ0eX",  # or so,
    "AAAAIGZ0eX",  # or so
)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}=*\s*")
_URL_SAFE = str.maketrans("-_", "+/")


def is_inline_text(uri: str) -> bool:
    """Say whether this is no uri that leads anywhere, but an image itself."""
    return uri[: len(_SCHEME)].lower() == _SCHEME or _is_base64(uri)


def decode_inline_text(uri: str) -> bytes:
    """Return the image that `is_inline_text` has found.

    Raises:
        ImageError: it is no base64.
    """
    if _is_base64(uri):
        return _decoded(uri)
    header, comma, data = uri.partition(",")
    if not comma:
        raise ImageError("corrupt", "a data: url without a comma, and so without data")
    plain = unquote_to_bytes(data)
    if not header.rstrip().lower().endswith(";base64"):
        return plain
    return _decoded(plain.decode("ascii", errors="replace").translate(_URL_SAFE))


def _is_base64(text: str) -> bool:
    return text.startswith(_STARTS) and _BASE64.fullmatch(text) is not None


def _decoded(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text.rstrip().rstrip("=") + "==")  # writers leave it out, or cut it
    except ValueError as exc:
        raise ImageError("corrupt", f"text that is no base64: {exc}") from exc
