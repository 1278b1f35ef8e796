"""Grey and YCbCr JPEGs by libjpeg-turbo, which is what most images are; the others are Pillow's."""

from __future__ import annotations

import re
from collections.abc import Callable

import simplejpeg

from spark_embed.errors import ImageError
from spark_embed.inference.decode.orientation import find_jpeg_orientation, upright
from spark_embed.inference.decode.pixels import Box, OpenedImage, Pixels
from spark_embed.inference.decode.scaling import find_scale, keeps_coefficients, picture_box, scaled_size

_JPEG_START = b"\xff\xd8\xff"

# Peaks measured with simplejpeg 1.9, the result included: for each pixel of the file if its coefficients are
# kept (a progressive JPEG's), and for each that is made.
_BYTES_PER_KEPT_PIXEL, _BYTES_PER_MADE_PIXEL = 6, 6
_BYTES_PER_PIXEL = 10

# Encoders write about ten. Every scan of a progressive JPEG goes over all its pixels, however short it is:
# 10 bytes can cost 20 ms at 100 million pixels (libjpeg-turbo's djpeg has -maxscans against it).
_MAX_SCANS = 100
_MAX_SCANNED_PIXELS = 1_000_000_000
_SHORTEST_SCAN_BYTES = 10
_START_OF_SCAN = re.compile(rb"\xff\xda")  # ITU-T T.81, table B.1


class PlainJpeg:
    """A grey or YCbCr JPEG: the same pixels as Pillow's, a fifth faster.

    Args:
        view: the file's bytes.
        size: width and height, in pixels.
        by_pillow: opens the same bytes with Pillow, which has the last word on a broken one.
        scale: by what its sides are divided.
    """

    def __init__(
        self,
        view: memoryview,
        size: tuple[int, int],
        by_pillow: Callable[[], OpenedImage],
        scale: int = 1,
    ) -> None:
        self.width, self.height = size
        self.n_pixels = self.width * self.height
        self.scale = scale
        self.box: Box | None = None
        self.peak_bytes = self.n_pixels * _BYTES_PER_PIXEL
        if scale > 1:
            width, height = scaled_size(*size, scale)
            kept = self.n_pixels * _BYTES_PER_KEPT_PIXEL if keeps_coefficients(view) else 0
            self.peak_bytes = kept + width * height * _BYTES_PER_MADE_PIXEL
        self._view = view
        self._by_pillow = by_pillow

    def decode(self) -> Pixels:
        """Return the pixels; see `OpenedImage.decode`."""
        width, height = scaled_size(self.width, self.height, self.scale) if self.scale > 1 else (0, 0)
        try:
            rgb = simplejpeg.decode_jpeg(
                self._view,
                colorspace="RGB",
                fastdct=False,
                fastupsample=False,
                min_height=height,  # of the scales that it has, the one that gives just this size
                min_width=width,
            )
        except (ValueError, MemoryError):  # stricter than Pillow, which also decodes truncated ones
            opened = self._by_pillow()
            pixels = opened.decode()
            self.box = opened.box
            return pixels
        orientation = find_jpeg_orientation(self._view)
        self.box = picture_box(self.width, self.height, self.scale, orientation)
        try:
            return upright(rgb, orientation)
        except MemoryError as exc:
            raise ImageError("out_of_memory", "while turning it upright") from exc


def refuse_many_scans(view: memoryview, n_pixels: int) -> None:
    """Refuse a JPEG whose scans would take minutes; leaves other formats alone.

    Raises:
        ImageError: `corrupt`.
    """
    most = len(view) // _SHORTEST_SCAN_BYTES
    if view[:3] != _JPEG_START or most <= _MAX_SCANS or most * n_pixels <= _MAX_SCANNED_PIXELS:
        return
    if not keeps_coefficients(view):  # one scan holds all, and decoding ends with it
        return
    n_scans = sum(1 for _ in _START_OF_SCAN.finditer(view))
    if n_scans > _MAX_SCANS and n_scans * n_pixels > _MAX_SCANNED_PIXELS:
        raise ImageError("corrupt", f"a JPEG of {n_scans} scans")


def open_plain_jpeg(
    view: memoryview, by_pillow: Callable[[], OpenedImage], min_edge: int | None = None
) -> PlainJpeg | None:
    """Read the header of a JPEG; None for what is no JPEG, has a broken header or other colours."""
    if view[:3] != _JPEG_START:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(view)
    except ValueError:
        return None
    if colorspace not in ("YCbCr", "Gray"):  # CMYK, and RGB stored as such, differ between the decoders
        return None
    return PlainJpeg(view, (width, height), by_pillow, find_scale(width, height, min_edge))
