"""What runs in a process of its own to decode suspects; knows no Spark, no torch, nothing of its parent.

Usage: python -m spark_embed.inference.decode.child OPTIONS
where OPTIONS are JSON: {"max_pixels": 100000000, "allow_truncated": false, "min_edge": null, "limit_s": 30}

It answers two requests, which isolated.py sends: "open", followed by an image, with its size and what
decoding will take at most; "decode" with the pixels of the image that was opened last. An image that takes
longer than `limit_s` ends the process by SIGALRM: a decoder in C can be stopped in no other way.
So the process also outlives its parent by no more than that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from spark_embed.errors import ImageError
from spark_embed.inference.decode import OpenedImage, open_image
from spark_embed.inference.decode.messages import read_header, write_message
from spark_embed.inference.decode.pixels import Buffer


def serve(requests: BinaryIO, replies: BinaryIO, options: dict[str, Any]) -> None:
    """Answer until there are no more requests."""
    limit_s = options.pop("limit_s")
    opened: OpenedImage
    while (request := read_header(requests)) is not None:
        payload: Buffer = b""
        try:
            if request["op"] == "open":
                data = requests.read(request["n_bytes"])
                with _time_limit(limit_s):
                    opened = open_image(data, **options)
                reply = _describe(opened)
            else:
                with _time_limit(limit_s):
                    pixels = opened.decode()
                reply, payload = {"shape": pixels.shape, "box": opened.box}, pixels.data.cast("B")
                del opened  # with its file and whatever the decoder keeps
        except ImageError as exc:
            reply = {"error": exc.code, "detail": exc.detail}
        write_message(replies, reply, payload)


def _describe(opened: OpenedImage) -> dict[str, Any]:
    return {name: getattr(opened, name) for name in ("width", "height", "n_pixels", "peak_bytes", "scale")}


@contextmanager
def _time_limit(limit_s: float | None) -> Iterator[None]:
    """Let the kernel end this process if the block takes longer; without a limit, never."""
    signal.setitimer(signal.ITIMER_REAL, limit_s or 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _take_streams() -> tuple[BinaryIO, BinaryIO]:
    """Return standard input and output, and put others in their place: what a decoder prints is no reply."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, replies


def main() -> None:
    """Say that the imports went well, then serve until the parent closes the pipe or is gone."""
    requests, replies = _take_streams()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        write_message(replies, {"ready": True})
        serve(requests, replies, json.loads(sys.argv[1]))
    except BrokenPipeError:
        os._exit(0)  # the parent was killed: nobody is there to tell, and nothing to flush


if __name__ == "__main__":
    main()
