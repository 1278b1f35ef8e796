"""A row without a result -> a small JPEG of what can be seen of its picture; a child process decodes it."""

from __future__ import annotations

import io

from PIL import Image

from spark_embed.errors import ImageError
from spark_embed.inference.decode.isolated import IsolatedDecoder
from spark_embed.search.pictures import Pictures

_LIMIT_S = 10.0
_QUALITY = 70


class ErrorPictures:
    """Makes small JPEGs of pictures that may crash a decoder, the right way up, at most `edge` pixels a side.

    Truncated ones as far as they go.
    """

    def __init__(self, pictures: Pictures, edge: int = 160) -> None:
        """Start no process before the first is asked for."""
        self._pictures = pictures
        self._edge = edge
        self._decoder = IsolatedDecoder(allow_truncated=True, limit_s=_LIMIT_S, min_edge=edge)

    def read(self, shard: str, shard_row: int) -> bytes | None:
        """Return a row's, None where it cannot be had or decoded."""
        try:
            pixels = self._decoder.open_image(self._pictures.read(shard, shard_row)).decode()
        except ImageError:
            return None
        image = Image.fromarray(pixels)
        image.thumbnail((self._edge, self._edge))
        made = io.BytesIO()
        image.save(made, "JPEG", quality=_QUALITY)
        return made.getvalue()

    def close(self) -> None:
        """End the child process."""
        self._decoder.close()
