"""To what scale a JPEG may be decoded, and what that takes and gives; decodes nothing.

At 1/2, 1/4 or 1/8 libjpeg-turbo makes that many of the pixels along each side straight from the coefficients
(DCT scaling). A side that the scale does not divide ends in a pixel that is only partly picture. The box says
how much of it: taken for a whole one, it would shift the picture by a part of a pixel, which costs a vector
more than the scaling does.
"""

from __future__ import annotations

from spark_embed.inference.decode.jpeg_segments import START_OF_SCAN, header_segments
from spark_embed.inference.decode.pixels import Box

_SCALES = (8, 4, 2)

# ITU-T T.81, table B.1: frames, those in which one scan may hold all, and what stands between them.
_FRAMES, _SEQUENTIAL, _NO_FRAMES = range(0xC0, 0xD0), (0xC0, 0xC1), (0xC4, 0xC8, 0xCC)

# EXIF orientations in which the last stored row or column becomes the first, and those that swap the two.
_ROWS_FROM_THE_END, _COLUMNS_FROM_THE_END, _SWAPPED = (3, 4, 6, 7), (2, 3, 7, 8), (5, 6, 7, 8)


def find_scale(width: int, height: int, min_edge: int | None) -> int:
    """Return the largest of 8, 4 and 2 that leaves both sides `min_edge` pixels; else, and for None, 1."""
    if min_edge is None:
        return 1
    return next((scale for scale in _SCALES if min(width, height) >= scale * min_edge), 1)


def scaled_size(width: int, height: int, scale: int) -> tuple[int, int]:
    """Return the size that a JPEG is decoded to, as libjpeg rounds it: up."""
    return -(-width // scale), -(-height // scale)


def picture_box(width: int, height: int, scale: int, orientation: int) -> Box | None:
    """Return which part of the scaled pixels, turned upright, is picture; None for all of them."""
    if width % scale == 0 == height % scale:
        return None
    n_columns, n_rows = scaled_size(width, height, scale)
    columns, rows = (0.0, width / scale), (0.0, height / scale)
    if orientation in _COLUMNS_FROM_THE_END:
        columns = (n_columns - columns[1], float(n_columns))
    if orientation in _ROWS_FROM_THE_END:
        rows = (n_rows - rows[1], float(n_rows))
    if orientation in _SWAPPED:
        columns, rows = rows, columns
    return columns[0], rows[0], columns[1], rows[1]


def keeps_coefficients(view: memoryview) -> bool:
    """Say whether decoding a JPEG keeps all its coefficients, whatever the scale: it has several scans."""
    n_components = 0
    for marker, payload in header_segments(view):
        if marker in _FRAMES and marker not in _NO_FRAMES:
            if marker not in _SEQUENTIAL:
                return True
            n_components = payload[5] if len(payload) > 5 else 0  # B.2.2
        if marker == START_OF_SCAN:
            return len(payload) == 0 or payload[0] != n_components  # B.2.3
    return True
