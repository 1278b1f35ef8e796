"""Noise, and image files that no library would write: sizes without pixels, odd depths, odd metadata."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF"]
PNG_GREY, PNG_RGB, PNG_RGBA = 0, 2, 6  # colour types, PNG specification, 11.2.1


def encode(image: Image.Image, image_format: str = "JPEG", **options) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def noise_image(width: int = 40, height: int = 30) -> Image.Image:
    """Noise does not compress: every byte of the file carries pixels."""
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8))


def png(width: int, height: int, depth: int, colour_type: int, rows: list[bytes]) -> bytes:
    """A PNG of these unfiltered rows; with no rows it announces pixels that it does not have."""
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunk(
    png: bytes, name: bytes, data: bytes, *, checksum: bytes | None = None, at_end: bool = False
) -> bytes:
    """Put one more chunk into a PNG: before its pixels, or behind them."""
    at = png.rindex(b"IEND") - 4 if at_end else png.index(b"IDAT") - 4
    chunk = _chunk(name, data)
    return png[:at] + (chunk[:-4] + checksum if checksum else chunk) + png[at:]


def tiff(tags: dict[int, int], data: bytes, data_tag: int) -> bytes:
    """A little-endian grey TIFF with these tags, its pixels at the end, where `data_tag` points."""
    offset = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = sorted({**tags, data_tag: offset}.items())
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + data


def tiff_12_bit(samples: list[int]) -> bytes:
    """A TIFF one pixel high, two 12-bit samples in every three bytes."""
    pairs = zip(samples[::2], samples[1::2], strict=True)
    packed = b"".join((a << 12 | b).to_bytes(3, "big") for a, b in pairs)
    tags = {256: len(samples), 257: 1, 258: 12, 259: 1, 262: 1, 277: 1, 278: 1, 279: len(packed)}
    return tiff(tags, packed, data_tag=273)


def png_bomb() -> bytes:
    return png(50_000, 50_000, 8, PNG_RGB, [])


def bmp_bomb() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 40_000, 40_000, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def gif_bomb() -> bytes:
    """It asks to clear 65535 x 65535 pixels after its first frame: Pillow makes those while opening."""
    screen = struct.pack("<HHBBB", 10, 10, 0x80, 1, 0) + bytes(6)
    control = b"!\xf9\x04" + struct.pack("<BHB", 2 << 2, 10, 0) + b"\0"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x02\x02\x4c\x01\0"
    return b"GIF89a" + screen + control + frame + b";"


def webp_bomb() -> bytes:
    """A canvas of 16384 x 16384, the largest that there is."""
    canvas = bytes([0x10, 0, 0, 0]) + 2 * (16_383).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", len(canvas)) + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_tile_bomb() -> bytes:
    """10 x 10 pixels in a tile of 30000 x 30000, deflated: libtiff allocates the tile."""
    data = zlib.compress(bytes(1000))
    tags = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: 30_000, 323: 30_000, 325: len(data)}
    return tiff(tags, data, data_tag=324)


def jpeg_bomb(small: bytes) -> bytes:
    """A baseline JPEG whose header announces 65000 x 65000 pixels."""
    at = small.index(b"\xff\xc0") + 5  # marker, length, precision; then height and width
    return small[:at] + struct.pack(">HH", 65_000, 65_000) + small[at + 4 :]


def scan_bomb(progressive: bytes, n_scans: int) -> bytes:
    """A progressive JPEG that announces 8000 x 8000 pixels and goes over them again and again."""
    at = progressive.index(b"\xff\xc2") + 5  # marker, length, precision; then height and width
    last = progressive.rindex(b"\xff\xda")
    start = progressive[:at] + struct.pack(">HH", 8000, 8000) + progressive[at + 4 : -2]
    return start + n_scans * progressive[last : last + 14] + b"\xff\xd9"


def rle_bomb() -> bytes:
    """A run-length encoded BMP, 49 million pixels wide, whose two rows are all filling."""
    rows = b"\1\1\0\0" * 2 + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, 49_000_000, 2, 1, 8, 1, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(rows), 0, 0, 1078) + header + bytes(1024) + rows


def webp_canvas(width: int, height: int) -> bytes:
    """A large canvas with nothing on it but announced."""
    canvas = bytes([0x12, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    pixel = bytes.fromhex("2f00000010071011118888feffff")  # a VP8L image of 1 x 1
    frame = bytes(6) + bytes(6) + bytes(3) + b"\0" + _riff(b"VP8L", pixel)
    body = b"WEBP" + _riff(b"VP8X", canvas) + _riff(b"ANIM", bytes(6)) + _riff(b"ANMF", frame)
    return _riff(b"RIFF", body)


def _riff(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def with_segment(jpeg: bytes, marker: int, payload: bytes) -> bytes:
    """Put one more segment at the start of a JPEG."""
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]
