"""Pictures made small, on threads, within bounds of memory, time and number; a few are kept."""

from __future__ import annotations

import asyncio
import io
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from PIL import Image

from spark_embed.errors import ImageError
from spark_embed.inference.decode import open_image
from spark_embed.inference.decode.pool import DecodeMemory, Job
from spark_embed.service.realtime.preparing import Preparing
from spark_embed.service.realtime.refusals import RefusedError

WIDTHS = (160, 320, 640, 1280)
"""Of which the next is made, so that few sizes of a picture are kept."""

_N_THREADS = 8  # they wait for a disk or a store, too
_LIMIT_S = 20.0
_MAX_WAITING = 256
_MEMORY_BYTES = 512 << 20
_KEPT_BYTES = 64 << 20
_QUALITY = 82

Key = tuple[str, int, int]
"""The shard, the row and the width."""


class Thumbnails:
    """Small JPEGs of pictures; lives in one event loop.

    Args:
        read: the encoded bytes of a row's picture, by its shard and row; is called on threads.
    """

    def __init__(self, read: Callable[[str, int], bytes]) -> None:
        self._read = read
        self._memory = DecodeMemory(_MEMORY_BYTES)
        self._preparing: Preparing[Key, bytes | ImageError] = Preparing(
            self._make, lambda key, error: error, _N_THREADS, _LIMIT_S
        )
        self._kept: OrderedDict[Key, bytes] = OrderedDict()
        self._n_kept_bytes = 0
        self._n_waiting = 0

    async def get(self, shard: str, row: int, width: int) -> bytes:
        """Return a JPEG of at most `width` pixels a side.

        Raises:
            RefusedError: the picture cannot be had, or too many are asked for.
        """
        key = (shard, row, next((size for size in WIDTHS if size >= width), WIDTHS[-1]))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if self._n_waiting >= _MAX_WAITING:
            raise RefusedError(503, "busy", "too many pictures are asked for at once", 1.0)
        self._n_waiting += 1
        try:
            made = await self._preparing.prepare(key)
        finally:
            self._n_waiting -= 1
        if isinstance(made, ImageError):  # without its detail, which may be a path
            raise RefusedError(404, made.code, f"the picture cannot be shown: {made.code.replace('_', ' ')}")
        self._keep(key, made)
        return made

    async def watch(self) -> None:
        """Give up pictures that take too long, until cancelled.

        Raises:
            RuntimeError: as `Preparing.watch`.
        """
        try:
            await self._preparing.watch()
        finally:
            await asyncio.shield(self._preparing.close())

    def _keep(self, key: Key, made: bytes) -> None:
        self._n_kept_bytes += len(made) - len(self._kept.pop(key, b""))
        self._kept[key] = made
        while self._n_kept_bytes > _KEPT_BYTES:
            self._n_kept_bytes -= len(self._kept.popitem(last=False)[1])

    def _make(self, job: Job[Key, bytes | ImageError]) -> bytes | ImageError:
        shard, row, width = job.given
        try:
            data = self._read(shard, row)
            hold = partial(job.decoding, self._memory)
            with hold(0):  # for the time limit: some headers take as long as pixels
                # As the job does with --allow_truncated: what it has embedded can be looked at.
                opened = open_image(data, allow_truncated=True, min_edge=width)
            with hold(opened.peak_bytes):
                image = Image.fromarray(opened.decode())
                left, top, right, bottom = opened.box or (0, 0, *image.size)
                scale = min(1.0, width / max(right - left, bottom - top))
                size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
                image = image.resize(size, Image.Resampling.LANCZOS, (left, top, right, bottom), 2.0)
        except ImageError as exc:
            return ImageError(exc.code, exc.detail)  # type: ignore[arg-type]  # without pixels
        file = io.BytesIO()
        image.save(file, "JPEG", quality=_QUALITY)
        return file.getvalue()
