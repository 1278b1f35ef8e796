"""What goes into decoding and what comes out of it; knows no decoder."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview

Box = tuple[float, float, float, float]
"""A part of an image, in pixels: left, top, right, bottom, as `PIL.Image.resize` takes it."""

MAX_PIXELS = 100_000_000


class OpenedImage(Protocol):
    """An image whose header has been read and whose pixels have not been decoded."""

    width: int
    height: int
    n_pixels: int
    """Pixels that the file holds at once: width x height, or a tile that is larger than its image."""
    scale: int
    """By what its sides are divided: 1; also 2, 4 or 8 for a JPEG."""
    box: Box | None
    """Once decoded, which part of the pixels is picture; None for all of them, as always at scale 1."""
    peak_bytes: int
    """Memory that decoding takes at most, the pixels included."""

    def decode(self) -> Pixels:
        """Return the pixels: C-contiguous uint8 (height, width, 3), RGB, upright. To be called once.

        Raises:
            ImageError: `corrupt`, or `out_of_memory`.
        """
        ...


class Decoder(Protocol):
    """Where a task's images are decoded: in its own process, or in others."""

    def open_image(self, data: Buffer) -> OpenedImage:
        """See `spark_embed.inference.decode.open_image`; the image must be decoded on the same thread."""
        ...

    def close(self) -> None:
        """Give up what is being decoded, and what else the decoder holds."""
        ...
