"""Encoded bytes -> RGB pixels, uint8 (height, width, 3); knows no Spark and no torch.

Policy, the same whichever decoder runs: the EXIF orientation is applied, transparency is composited
on white, the first frame counts, colour profiles are ignored, 16-bit samples keep their high byte.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from spark_embed.errors import ImageError

Pixels = npt.NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview

Image.init()
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000")
    if name in Image.OPEN
)
"""What Pillow may open, as far as this build of it can; its JPEG includes MPO.

Nothing here starts another program (EPS would start Ghostscript)."""

MAX_PIXELS = 100_000_000

# Pillow's own limit warns and then refuses at a size of its own choosing; `max_pixels` is ours.
Image.MAX_IMAGE_PIXELS = None

_JPEG_START = b"\xff\xd8\xff"
_EXIF_SEARCH_BYTES = 1 << 16
_ORIENTATION_TAG = 0x0112  # EXIF 2.32, section 4.6.4

_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}
"""How to turn stored pixels upright, by EXIF orientation (1 is upright)."""


class OpenedImage(Protocol):
    """An image whose header has been read and whose pixels have not been decoded."""

    width: int
    height: int

    def decode(self) -> Pixels:
        """Return the pixels: C-contiguous uint8 (height, width, 3), RGB, upright.

        Raises:
            ImageError: `corrupt`, or `out_of_memory`.
        """
        ...


def open_image(data: Buffer, max_pixels: int = MAX_PIXELS) -> OpenedImage:
    """Read the header of an encoded image and choose its decoder.

    Raises:
        ImageError: `not_an_image`, `corrupt` (a header that contradicts itself), `too_many_pixels`.
    """
    view = memoryview(data)
    image = _open_plain_jpeg(view) or open_with_pillow(view)
    if image.width * image.height > max_pixels:
        raise ImageError("too_many_pixels", f"{image.width} x {image.height} is more than {max_pixels}")
    return image


def decode(data: Buffer, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Open and decode in one step.

    Raises:
        ImageError: as `open_image` and `OpenedImage.decode` do.
    """
    return open_image(data, max_pixels).decode()


def open_with_pillow(view: Buffer) -> PillowImage:
    """Read the header with Pillow, the reference decoder, whatever the format."""
    if not len(view):
        raise ImageError("not_an_image", "0 bytes")
    try:
        opened = Image.open(io.BytesIO(view), formats=FORMATS)
    except UnidentifiedImageError as exc:
        raise ImageError("not_an_image", _describe(view)) from exc
    except Exception as exc:  # Pillow's plugins raise about any exception on a broken header
        raise ImageError("corrupt", _reason(exc)) from exc
    return PillowImage(opened, view)


class PillowImage:
    """Any format, by Pillow."""

    def __init__(self, opened: Image.Image, view: Buffer) -> None:
        self.width, self.height = opened.size
        self.opened = opened
        self._view = view

    def decode(self) -> Pixels:
        """Return the pixels; see `OpenedImage.decode`."""
        try:
            self.opened.load()
            orientation = _orientation(self.opened)
            rgb = np.asarray(_to_rgb(self.opened), dtype=np.uint8)
        except MemoryError as exc:
            raise ImageError("out_of_memory", f"{self.width} x {self.height} pixels") from exc
        except Exception as exc:  # Pillow's plugins raise about any exception on broken pixels
            raise ImageError("corrupt", _reason(exc)) from exc
        return upright(rgb, orientation)


class PlainJpeg:
    """A grey or YCbCr JPEG, by libjpeg-turbo: the same pixels as Pillow, a fifth faster."""

    def __init__(self, view: memoryview, width: int, height: int, orientation: int) -> None:
        self.width, self.height = width, height
        self._view = view
        self._orientation = orientation

    def decode(self) -> Pixels:
        """Return the pixels; see `OpenedImage.decode`."""
        try:
            rgb = simplejpeg.decode_jpeg(self._view, colorspace="RGB", fastdct=False, fastupsample=False)
        except (ValueError, MemoryError):  # stricter than Pillow, which gives the verdict
            return open_with_pillow(self._view).decode()
        return upright(rgb, self._orientation)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Apply an EXIF orientation (1 to 8) to stored pixels of shape (height, width, 3)."""
    turn = _UPRIGHT.get(orientation)
    return np.ascontiguousarray(turn(pixels)) if turn else pixels


def _open_plain_jpeg(view: memoryview) -> PlainJpeg | None:
    if view[:3] != _JPEG_START:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(view)
    except ValueError:
        return None
    if colorspace not in ("YCbCr", "Gray"):  # CMYK, and RGB stored as such, differ between the decoders
        return None
    orientation = 1
    if b"Exif\0\0" in bytes(view[:_EXIF_SEARCH_BYTES]):
        orientation = _orientation(open_with_pillow(view).opened)
    return PlainJpeg(view, width, height, orientation)


def _orientation(opened: Image.Image) -> int:
    try:
        value = opened.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001  third-party parser; broken metadata leaves the pixels usable
        return 1
    return value if value in _UPRIGHT else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _high_byte(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """Return 16-bit, 32-bit or float grey as 8-bit grey.

    Integers above 255 are taken as 16-bit samples; floats up to 1 as fractions, others as grey levels.
    (Pillow's own conversion clips at 255, which turns nearly every 16-bit photo white.)
    """
    samples = np.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((samples >> 8).astype(np.uint8))
    if image.mode == "I":
        grey = np.clip(samples, 0, 65535)
        return Image.fromarray((grey >> 8 if grey.max(initial=0) > 255 else grey).astype(np.uint8))
    grey = np.nan_to_num(samples, nan=0.0, posinf=255.0, neginf=0.0)
    if grey.max(initial=0.0) <= 1:
        grey = grey * 255
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))


def _describe(view: Buffer) -> str:
    return f"{len(view)} bytes that begin with {bytes(view[:12])!r}"


def _reason(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"
