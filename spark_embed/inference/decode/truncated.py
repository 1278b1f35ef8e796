"""Whether Pillow may decode what is left of a truncated image: a switch for one thread; knows no image.

Pillow's own, `ImageFile.LOAD_TRUNCATED_IMAGES`, is one for the process. A worker outlives a run, and a decode
that was given up goes on beside the next run's: neither may change what the other accepts.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ImageFile


class _Switch(threading.local):
    """Stands in for Pillow's flag, which Pillow only ever asks for its truth."""

    allowed: bool | None = None
    outside: bool = False  # what others in this process have set, for their own decodes

    def __bool__(self) -> bool:
        return _Switch.outside if self.allowed is None else self.allowed


_switch = _Switch()


@contextmanager
def truncated_images(allowed: bool) -> Iterator[None]:
    """Let Pillow accept truncated images, or make it refuse them, in this thread and for the block only."""
    if ImageFile.LOAD_TRUNCATED_IMAGES is not _switch:  # type: ignore[comparison-overlap]
        _Switch.outside = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = _switch  # type: ignore[assignment]
    _switch.allowed = allowed
    try:
        yield
    finally:
        _switch.allowed = None
