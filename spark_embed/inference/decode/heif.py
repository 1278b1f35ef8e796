"""HEIF and HEIC, as phones write them: whether this machine can decode them, and Pillow's plugin for it.

libheif turns the pixels upright by itself and takes the orientation out of the metadata: nobody turns twice.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from spark_embed.inference.decode.pixels import Buffer

HEIF = "HEIF"
INSTALL_HEIC = "pip install 'spark-embed[heic]'"

# Major brands, ISO/IEC 23008-12, annex B; an AVIF may begin with the last two as well.
_BRANDS = (
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
    *(b"mif1", b"msf1"),
)


@cache
def can_decode_heic() -> bool:
    """Say whether pillow-heif is installed here (the extra `heic`); imports nothing of it."""
    return find_spec("pillow_heif") is not None


def is_heif(view: Buffer) -> bool:
    """Say whether a file begins as a HEIF does, whatever its codec."""
    return bytes(view[4:8]) == b"ftyp" and bytes(view[8:12]) in _BRANDS


@cache
def register_heif() -> None:
    """Let Pillow know HEIF, once per process; the primary image alone is decoded, on the calling thread."""
    from pillow_heif import register_heif_opener  # an extra, and a tenth of a second

    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
