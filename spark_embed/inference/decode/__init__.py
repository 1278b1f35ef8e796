"""Encoded bytes -> RGB pixels, uint8 (height, width, 3); knows no Spark and no torch.

Policy, the same whichever decoder runs: the EXIF orientation is applied, transparency is composited
on white, the first frame counts, colour profiles are ignored, 16-bit samples keep their high byte.
"""

from __future__ import annotations

from PIL import Image

from spark_embed.errors import ImageError
from spark_embed.inference.decode.heif import can_decode_heic
from spark_embed.inference.decode.jpeg import PlainJpeg, open_plain_jpeg, refuse_many_scans
from spark_embed.inference.decode.pillow import PillowImage, open_with_pillow
from spark_embed.inference.decode.pixels import MAX_PIXELS, Buffer, Decoder, OpenedImage, Pixels

# Most formats need no more for --max_pixels, but WebP and JPEG 2000 would take 1.6 and 2.5 GB for 100 million
# pixels, which a file of a hundred bytes can announce. With torch (0.9 GB) a worker so stays below 2 GB.
_MAX_PEAK_BYTES = 1_000_000_000
_BYTES_PER_ALLOWED_PIXEL = 10

__all__ = [
    "MAX_PIXELS",
    "Buffer",
    "Decoder",
    "InProcessDecoder",
    "OpenedImage",
    "PillowImage",
    "Pixels",
    "PlainJpeg",
    "can_decode_heic",
    "decode",
    "open_image",
    "open_with_pillow",
]


def open_image(
    data: Buffer, max_pixels: int = MAX_PIXELS, allow_truncated: bool = False, min_edge: int | None = None
) -> OpenedImage:
    """Read the header of an encoded image and choose its decoder.

    Args:
        data: the file's bytes, from the first on.
        max_pixels: how many pixels may be decoded at once.
        allow_truncated: decode a truncated image as far as it goes; what is missing is grey or black.
        min_edge: decode a JPEG at 1/2, 1/4 or 1/8, the smallest that leaves its shorter side so many pixels;
            None for never. `max_pixels` is of the size that the file has.

    Raises:
        ImageError: `not_an_image`, `corrupt` (a header that contradicts itself), `too_many_pixels`.
    """
    # Pillow's own guard (it refuses from twice this number) covers what a GIF or WebP makes it allocate
    # before we see a size. It is one number per process.
    Image.MAX_IMAGE_PIXELS = max_pixels
    view = memoryview(data)

    def by_pillow() -> OpenedImage:
        opened = open_with_pillow(view, allow_truncated, min_edge)
        _refuse_many_pixels(opened, max_pixels)
        return opened

    image = open_plain_jpeg(view, by_pillow, min_edge) or by_pillow()
    _refuse_many_pixels(image, max_pixels)
    _refuse_much_memory(image, max_pixels, len(view))
    refuse_many_scans(view, image.n_pixels)
    return image


def decode(data: Buffer, max_pixels: int = MAX_PIXELS, allow_truncated: bool = False) -> Pixels:
    """Open and decode in one step.

    Raises:
        ImageError: as `open_image` and `OpenedImage.decode` do.
    """
    return open_image(data, max_pixels, allow_truncated).decode()


class InProcessDecoder:
    """Decodes in the calling process."""

    def __init__(
        self, max_pixels: int = MAX_PIXELS, allow_truncated: bool = False, min_edge: int | None = None
    ) -> None:
        self._max_pixels = max_pixels
        self._allow_truncated = allow_truncated
        self._min_edge = min_edge

    def open_image(self, data: Buffer) -> OpenedImage:
        """See `open_image`."""
        return open_image(data, self._max_pixels, self._allow_truncated, self._min_edge)

    def close(self) -> None:
        """There is nothing to end: a thread that decodes cannot be stopped."""


def _refuse_many_pixels(image: OpenedImage, max_pixels: int) -> None:
    if image.n_pixels > max_pixels:
        size = f"{image.width} x {image.height}, {image.n_pixels} pixels at once"
        raise ImageError("too_many_pixels", f"{size}, is more than {max_pixels}")


def _refuse_much_memory(image: OpenedImage, max_pixels: int, n_bytes: int) -> None:
    max_bytes = max(_MAX_PEAK_BYTES, max_pixels * _BYTES_PER_ALLOWED_PIXEL) + n_bytes
    if image.peak_bytes > max_bytes:
        size = f"{image.width} x {image.height} of this format take {image.peak_bytes >> 20} MiB"
        raise ImageError("too_many_pixels", f"{size}, more than {max_bytes >> 20} MiB")
