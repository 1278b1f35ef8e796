"""Any format on the list by Pillow, the reference decoder; starts no other program."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

from spark_embed.errors import ImageError
from spark_embed.inference.decode.boundary import pillow_errors
from spark_embed.inference.decode.heif import HEIF, INSTALL_HEIC, can_decode_heic, is_heif, register_heif
from spark_embed.inference.decode.orientation import find_orientation, upright
from spark_embed.inference.decode.pixels import Box, Buffer, Pixels
from spark_embed.inference.decode.png import keep_pixel_chunks
from spark_embed.inference.decode.rgb import to_rgb
from spark_embed.inference.decode.scaling import find_scale, keeps_coefficients, picture_box, scaled_size
from spark_embed.inference.decode.truncated import truncated_images
from spark_embed.storage import LFS_POINTER, is_lfs_pointer

Image.init()
FORMATS: tuple[str, ...] = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000")
    if name in Image.OPEN
)
"""What Pillow may open, as far as this build of it can; its JPEG includes MPO. HEIF comes with an extra.

Nothing here starts another program (EPS would start Ghostscript)."""

_BITS_PER_SAMPLE_TAG, _TILE_WIDTH_TAG, _TILE_LENGTH_TAG = 258, 322, 323  # TIFF 6.0, sections 8 and 15

_JPEG_XL_STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")  # ISO/IEC 18181-2: codestream, container

# Peaks measured with Pillow 13.0, the result included, at 100 million pixels with an alpha channel (JPEG:
# CMYK and progressive; HEIF: pillow-heif 1.8). WebP keeps two canvases, JPEG 2000 32 bits for each sample.
_BYTES_PER_PIXEL = {"WEBP": 17, "JPEG2000": 26, "AVIF": 12, "JPEG": 13, "MPO": 13, HEIF: 14}
_BYTES_PER_PIXEL_ELSE = 10
_JPEGS = ("JPEG", "MPO")

# Pillow fills up run-length encoded BMPs byte by byte, in Python: a second for every ten million pixels. One
# with more than these for its size comes from no encoder; it is all filling.
_RLE_PIXELS = 10_000_000
_RLE_PIXELS_PER_BYTE = 1000


def open_with_pillow(view: Buffer, allow_truncated: bool = False, min_edge: int | None = None) -> PillowImage:
    """Read the header with Pillow, whatever the format; of a PNG that it refuses, the chunks with pixels.

    Args:
        view: the file's bytes.
        allow_truncated: decode a truncated image as far as it goes.
        min_edge: as `spark_embed.inference.decode.open_image` has it.

    Raises:
        ImageError: `not_an_image`, `corrupt`, `too_many_pixels` (from twice Pillow's own limit on).
    """
    try:
        return PillowImage(_open(view, allow_truncated), view, allow_truncated, min_edge)
    except ImageError as exc:
        lean = keep_pixel_chunks(view) if exc.code == "corrupt" else None
        if lean is None:
            raise
    return PillowImage(_open(lean, allow_truncated), lean, allow_truncated)


class PillowImage:
    """An image that Pillow has opened from a copy of these bytes; of a JPEG, maybe scaled."""

    def __init__(
        self, opened: Image.Image, view: Buffer, allow_truncated: bool, min_edge: int | None = None
    ) -> None:
        self.width, self.height = opened.size
        self.scale = find_scale(*opened.size, min_edge if opened.format in _JPEGS else None)
        self.box: Box | None = None
        self.n_pixels = max(self.width * self.height, _tile_pixels(opened))
        per_pixel = _BYTES_PER_PIXEL.get(opened.format or "", _BYTES_PER_PIXEL_ELSE)
        self.peak_bytes = len(view) + self.n_pixels * per_pixel
        if self.scale > 1 and not keeps_coefficients(memoryview(view)):
            width, height = scaled_size(*opened.size, self.scale)
            self.peak_bytes = len(view) + width * height * per_pixel
        self._opened = opened
        self._view = view
        self._allow_truncated = allow_truncated

    def decode(self) -> Pixels:
        """Return the pixels; see `OpenedImage.decode`."""
        try:
            orientation = self._load()
        except ImageError as exc:
            lean = keep_pixel_chunks(self._view) if exc.code == "corrupt" else None
            if lean is None:
                raise
            self._opened.close()
            self._opened = _open(lean, self._allow_truncated)
            orientation = self._load()
        try:
            rgb = to_rgb(self._opened, _bits_per_sample(self._opened))
            self._opened.close()  # frees its pixels before they are copied once more
            self.box = picture_box(self.width, self.height, self.scale, orientation)
            return upright(rgb, orientation)
        except MemoryError as exc:
            raise ImageError("out_of_memory", "while converting it to RGB") from exc

    def _load(self) -> int:
        """Decode, and return the orientation."""
        with pillow_errors(), truncated_images(self._allow_truncated):
            if self.scale > 1:  # Pillow takes the scale at which both sides are at least so large
                self._opened.draft("", (self.width // self.scale, self.height // self.scale))
            self._opened.load()
            return find_orientation(self._opened)  # a TIFF is upright by now, and without its tag


def _open(view: Buffer, allow_truncated: bool) -> Image.Image:
    if not len(view):
        raise ImageError("not_an_image", "0 bytes")
    formats = FORMATS
    if is_heif(view) and can_decode_heic():
        register_heif()
        formats = (*FORMATS, HEIF)
    with pillow_errors(), truncated_images(allow_truncated):
        try:
            opened = Image.open(io.BytesIO(view), formats=formats)  # BytesIO copies a view
        except UnidentifiedImageError:
            opened = None
    if opened is None:
        raise ImageError("corrupt" if _has_signature(view, formats) else "not_an_image", _describe(view))
    if any(tile.codec_name == "bmp_rle" for tile in getattr(opened, "tile", ())):
        _refuse_filling(opened, len(view))
    return opened


def _refuse_filling(opened: Image.Image, n_bytes: int) -> None:
    n_pixels = opened.width * opened.height
    if n_pixels > max(_RLE_PIXELS, n_bytes * _RLE_PIXELS_PER_BYTE):
        raise ImageError("corrupt", f"{n_bytes} bytes of a run-length encoded BMP for {n_pixels} pixels")


def _tile_pixels(opened: Image.Image) -> int:
    """Return the pixels of one tile of a tiled TIFF: libtiff allocates them, whatever the image's size."""
    with pillow_errors():  # it reads a tag's value when it is asked for it
        tags = getattr(opened, "tag_v2", {})
        width, length = tags.get(_TILE_WIDTH_TAG), tags.get(_TILE_LENGTH_TAG)
    return width * length if isinstance(width, int) and isinstance(length, int) else 0


def _bits_per_sample(opened: Image.Image) -> int:
    """Return how many bits of a 16-bit grey sample are used: a TIFF may hold 12."""
    with pillow_errors():
        bits: int = getattr(opened, "tag_v2", {}).get(_BITS_PER_SAMPLE_TAG, (16,))[0]
    return bits


def _has_signature(view: Buffer, formats: tuple[str, ...]) -> bool:
    """Say whether the bytes begin as a format that is read here does, however broken the rest."""
    prefix = bytes(view[:16])  # as many as Image.open looks at
    accepts = (Image.OPEN[name][1] for name in formats)
    return len(prefix) == 16 and any(accept is not None and accept(prefix) is True for accept in accepts)


def _describe(view: Buffer) -> str:
    if is_lfs_pointer(bytes(view[:64])):
        return LFS_POINTER
    if is_heif(view) and not can_decode_heic():
        return f"a HEIC; {INSTALL_HEIC}, on every worker, reads it"
    if any(bytes(view[: len(start)]) == start for start in _JPEG_XL_STARTS):
        return "a JPEG XL, which is not read here"
    return f"{len(view)} bytes that begin with {bytes(view[:12])!r}"
