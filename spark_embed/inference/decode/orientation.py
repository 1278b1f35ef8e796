"""Which way up an image is stored, and turning it upright; decodes no pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from spark_embed.inference.decode.jpeg_segments import header_segments
from spark_embed.inference.decode.pixels import Pixels

_ORIENTATION_TAG = 0x0112  # EXIF 2.32, section 4.6.4
_APP1 = 0xE1  # ITU-T T.81, table B.1
_EXIF_START = b"Exif\0\0"
_XMP_START = b"http://ns.adobe.com/xap/1.0/\0"

_WholePixels = npt.NDArray[np.void]

_UPRIGHT: dict[int, Callable[[_WholePixels], _WholePixels]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: a.T[:, ::-1],
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: a.T[::-1],
}
"""How to turn stored pixels upright, by EXIF orientation (1 is upright)."""


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Apply an EXIF orientation (1 to 8) to stored pixels of shape (height, width, 3)."""
    turn = _UPRIGHT.get(orientation)
    if turn is None:
        return pixels
    # As elements of three bytes: copied twice as fast as three elements each.
    turned = np.ascontiguousarray(turn(pixels.view("V3")[..., 0]))
    return turned.view(np.uint8).reshape(*turned.shape, 3)


def find_orientation(opened: Image.Image) -> int:
    """Return the EXIF orientation that an image's metadata names: 1 to 8; 1 where it names none."""
    try:
        value = opened.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001  third-party parser; broken metadata leaves the pixels usable
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def find_jpeg_orientation(view: memoryview) -> int:
    """Return the orientation as Pillow finds it, without opening the image: in Exif, else in XMP."""
    metadata = Image.Image()
    exif: list[bytes] = []
    for marker, payload in header_segments(view):
        if marker != _APP1:
            continue
        segment = bytes(payload)
        if segment.startswith(_EXIF_START):
            exif.append(segment[len(_EXIF_START) :])
        elif segment.startswith(_XMP_START):
            metadata.info["xmp"] = segment[len(_XMP_START) :]
    if exif:
        metadata.info["exif"] = _EXIF_START + b"".join(exif)
    return find_orientation(metadata) if metadata.info else 1
