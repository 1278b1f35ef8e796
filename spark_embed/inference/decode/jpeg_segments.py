"""The segments of a JPEG's header, one after the other; knows what none of them means."""

from __future__ import annotations

import re
from collections.abc import Iterator

START_OF_SCAN = 0xDA  # ITU-T T.81, table B.1

# Garbage and fill bytes (0xFF) before it are skipped. A pattern, because a file may hold megabytes of them.
_MARKER = re.compile(rb"\xff([^\xff])", re.DOTALL)


def header_segments(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the segments up to the first scan's (ITU-T T.81, B.1.1): marker, and what follows the length."""
    at = 2
    while (found := _MARKER.search(view, at)) is not None and found.end() + 2 <= len(view):
        marker, at = found[1][0], found.end()
        end = at + int.from_bytes(view[at : at + 2], "big")
        yield marker, view[at + 2 : end]
        if marker == START_OF_SCAN:
            return
        at = end
