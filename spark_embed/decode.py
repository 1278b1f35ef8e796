"""Encoded bytes -> RGB pixels, uint8 (height, width, 3); knows no Spark and no torch.

Policy, the same whichever decoder runs: the EXIF orientation is applied, transparency is composited
on white, the first frame counts, colour profiles are ignored, 16-bit samples keep their high byte.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
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

_JPEG_START = b"\xff\xd8\xff"
_APP1, _START_OF_SCAN = 0xE1, 0xDA  # ITU-T T.81, table B.1
_EXIF_START = b"Exif\0\0"
_XMP_START = b"http://ns.adobe.com/xap/1.0/\0"
_ORIENTATION_TAG = 0x0112  # EXIF 2.32, section 4.6.4
_BITS_PER_SAMPLE_TAG, _TILE_WIDTH_TAG, _TILE_LENGTH_TAG = 258, 322, 323  # TIFF 6.0, sections 8 and 15

# Peaks measured with Pillow 13.0 and simplejpeg 1.9, the result included: a progressive JPEG keeps its
# coefficients, a turned one a second copy; of Pillow's formats WebP with an alpha channel takes most.
_JPEG_BYTES_PER_PIXEL = 12
_PILLOW_BYTES_PER_PIXEL = 26

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
    n_pixels: int
    """Pixels that are decoded at once: width x height, or a tile that is larger than its image."""
    peak_bytes: int
    """Memory that decoding takes at most, the pixels included."""

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
    # Pillow's own guard (it refuses from twice this number) covers what a GIF or WebP makes it allocate
    # before we see a size. It is one number per process.
    Image.MAX_IMAGE_PIXELS = max_pixels
    view = memoryview(data)
    image = _open_plain_jpeg(view) or open_with_pillow(view)
    if image.n_pixels > max_pixels:
        size = f"{image.width} x {image.height}, {image.n_pixels} pixels at once"
        raise ImageError("too_many_pixels", f"{size}, is more than {max_pixels}")
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
        return PillowImage(Image.open(io.BytesIO(view), formats=FORMATS))
    except UnidentifiedImageError as exc:
        raise ImageError("corrupt" if _has_signature(view) else "not_an_image", _describe(view)) from exc
    except Exception as exc:  # Pillow's plugins raise about any exception on a broken header
        raise _image_error(exc) from exc


class PillowImage:
    """Any format, by Pillow."""

    def __init__(self, opened: Image.Image) -> None:
        self.width, self.height = opened.size
        self.n_pixels = max(self.width * self.height, _tile_pixels(opened))
        self.peak_bytes = self.n_pixels * _PILLOW_BYTES_PER_PIXEL
        self._opened = opened

    def decode(self) -> Pixels:
        """Return the pixels; see `OpenedImage.decode`."""
        try:
            self._opened.load()
            orientation = _orientation(self._opened)  # a TIFF is upright by now, and without its tag
            rgb = np.array(_to_rgb(self._opened), dtype=np.uint8)  # a copy: torch wants it writable
        except Exception as exc:  # Pillow's plugins raise about any exception on broken pixels
            raise _image_error(exc) from exc
        return upright(rgb, orientation)


class PlainJpeg:
    """A grey or YCbCr JPEG, by libjpeg-turbo: the same pixels as Pillow, a fifth faster."""

    def __init__(self, view: memoryview, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.n_pixels = width * height
        self.peak_bytes = self.n_pixels * _JPEG_BYTES_PER_PIXEL
        self._view = view

    def decode(self) -> Pixels:
        """Return the pixels; see `OpenedImage.decode`."""
        try:
            rgb = simplejpeg.decode_jpeg(self._view, colorspace="RGB", fastdct=False, fastupsample=False)
        except (ValueError, MemoryError):  # stricter than Pillow, which gives the verdict
            return open_with_pillow(self._view).decode()
        return upright(rgb, _jpeg_orientation(self._view))


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
    return PlainJpeg(view, width, height)


def _jpeg_orientation(view: memoryview) -> int:
    """Return the orientation as Pillow finds it, without opening the image: in Exif, else in XMP."""
    metadata = Image.Image()
    for segment in _app1_segments(view):
        if segment.startswith(_EXIF_START):
            metadata.info["exif"] = metadata.info.get("exif", _EXIF_START) + segment[len(_EXIF_START) :]
        elif segment.startswith(_XMP_START):
            metadata.info["xmp"] = segment[len(_XMP_START) :]
    return _orientation(metadata) if metadata.info else 1


def _app1_segments(view: memoryview) -> Iterator[bytes]:
    """Yield the APP1 segments of a JPEG's header (ITU-T T.81, B.1.1)."""
    at = 2
    while at + 4 <= len(view):
        if view[at] != 0xFF or view[at + 1] == 0xFF:  # garbage, or a fill byte
            at += 1
            continue
        if view[at + 1] == _START_OF_SCAN:
            return
        end = at + 2 + int.from_bytes(view[at + 2 : at + 4], "big")
        if view[at + 1] == _APP1:
            yield bytes(view[at + 4 : end])
        at = end


def _orientation(opened: Image.Image) -> int:
    try:
        value = opened.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001  third-party parser; broken metadata leaves the pixels usable
        return 1
    return value if value in _UPRIGHT else 1


def _tile_pixels(opened: Image.Image) -> int:
    """Return the pixels of one tile of a tiled TIFF: libtiff allocates them, whatever the image's size."""
    tags = getattr(opened, "tag_v2", {})
    width, length = tags.get(_TILE_WIDTH_TAG), tags.get(_TILE_LENGTH_TAG)
    return width * length if isinstance(width, int) and isinstance(length, int) else 0


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _high_byte(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """Return 12-bit, 16-bit, 32-bit or float grey as 8-bit grey.

    Integers above 255 are taken as 16-bit samples; floats up to 1 as fractions, others as grey levels.
    (Pillow's own conversion clips at 255, which turns nearly every 16-bit photo white.)
    """
    samples = np.asarray(image)
    if image.mode.startswith("I;16"):
        n_bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE_TAG, (16,))[0]  # a TIFF may hold 12
        return Image.fromarray((samples >> max(0, n_bits - 8)).astype(np.uint8))
    if image.mode == "I":
        grey = np.clip(samples, 0, 65535)
        return Image.fromarray((grey >> 8 if grey.max(initial=0) > 255 else grey).astype(np.uint8))
    grey = np.nan_to_num(samples, nan=0.0, posinf=255.0, neginf=0.0)
    if grey.max(initial=0.0) <= 1:
        grey = grey * 255
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))


def _has_signature(view: Buffer) -> bool:
    """Say whether the bytes begin as a format that is read here does, however broken the rest."""
    prefix = bytes(view[:16])  # as many as Image.open looks at
    accepts = (Image.OPEN[name][1] for name in FORMATS)
    return len(prefix) == 16 and any(accept is not None and accept(prefix) is True for accept in accepts)


def _describe(view: Buffer) -> str:
    return f"{len(view)} bytes that begin with {bytes(view[:12])!r}"


def _image_error(exc: Exception) -> ImageError:
    if isinstance(exc, MemoryError):
        return ImageError("out_of_memory", "while decoding")
    if isinstance(exc, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ImageError("too_many_pixels", str(exc))
    return ImageError("corrupt", f"{type(exc).__name__}: {exc}")
