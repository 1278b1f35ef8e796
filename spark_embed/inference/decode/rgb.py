"""A loaded Pillow image of any mode -> RGB pixels, uint8; opens no file.

It goes by bands of rows: what a conversion takes besides its result stays small, however large the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from spark_embed.inference.decode.boundary import pillow_errors
from spark_embed.inference.decode.pixels import Pixels

_BAND_PIXELS = 1 << 16

_WHITE = (255, 255, 255, 255)


def to_rgb(image: Image.Image, bits_per_sample: int = 16) -> Pixels:
    """Return the pixels of a loaded image as it is stored: C-contiguous uint8 (height, width, 3), writable.

    Args:
        image: of any mode of the formats that are read.
        bits_per_sample: how many bits of a sample the modes I;16 use.
    """
    convert = _conversion(image, bits_per_sample)
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    top = 0
    for band in _bands(image):
        pixels[top : top + band.height] = convert(band)
        top += band.height
    return pixels


def _bands(image: Image.Image) -> Iterator[Image.Image]:
    """Yield the image from the top down in bands of about `_BAND_PIXELS`."""
    n_rows = max(1, _BAND_PIXELS // image.width)
    if n_rows >= image.height:
        yield image
        return
    for top in range(0, image.height, n_rows):
        yield image.crop((0, top, image.width, min(top + n_rows, image.height)))


def _conversion(image: Image.Image, bits_per_sample: int) -> Callable[[Image.Image], npt.NDArray[np.uint8]]:
    """Return what turns a band into RGB, or into grey of shape (height, width, 1)."""
    if image.mode.startswith("I;16"):
        shift = max(0, bits_per_sample - 8)
        return lambda band: (np.asarray(band) >> shift).astype(np.uint8)[..., None]
    if image.mode == "I":
        return _integers_to_grey(image)
    if image.mode == "F":
        return _floats_to_grey(image)
    if image.has_transparency_data:
        return lambda band: np.asarray(_on_white(band))
    return lambda band: np.asarray(_opaque(band))


def _opaque(image: Image.Image) -> Image.Image:
    with pillow_errors():  # a broken palette or table of colours
        return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    with pillow_errors():
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB")


def _integers_to_grey(image: Image.Image) -> Callable[[Image.Image], npt.NDArray[np.uint8]]:
    """Return how integers become grey: where one is above 255, all are taken as 16-bit samples.

    (Pillow's own conversion clips at 255, which turns nearly every 16-bit photo white.)
    """
    shift = 8 if max(int(np.asarray(band).max()) for band in _bands(image)) > 255 else 0
    return lambda band: (np.clip(np.asarray(band), 0, 65535) >> shift).astype(np.uint8)[..., None]


def _floats_to_grey(image: Image.Image) -> Callable[[Image.Image], npt.NDArray[np.uint8]]:
    """Return how floats become grey: up to 1 they are fractions, else grey levels. NaN is black."""
    scale = 255 if max(float(_finite(band).max()) for band in _bands(image)) <= 1 else 1
    return lambda band: np.clip(_finite(band) * scale, 0, 255).astype(np.uint8)[..., None]


def _finite(image: Image.Image) -> npt.NDArray[np.float32]:
    return np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0.0, posinf=255.0, neginf=0.0)
