"""Decoding in child processes, for a task that has failed before; knows no Spark.

Nothing in a process survives a decoder that crashes it. Here the crash is a child's: its image is an error
row, a new child takes the next one. An image that takes too long ends its child the same way.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, cast

import numpy as np

from spark_embed.errors import ImageError
from spark_embed.inference.decode.messages import read_header, write_message
from spark_embed.inference.decode.pixels import MAX_PIXELS, Box, Buffer, Decoder, OpenedImage, Pixels

_END_WITHIN_S = 5.0

# Someone ended the child from outside (Spark, the cluster, a person): no image is to blame.
_ENDED_FROM_OUTSIDE = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_UNCAUGHT_EXCEPTION = 1  # Python's exit status


class IsolatedDecoder:
    """Opens and decodes images as `open_image` does, each calling thread with a child of its own.

    Args:
        max_pixels: see `open_image`.
        allow_truncated: see `open_image`.
        limit_s: seconds that opening an image may take, and decoding it; None for no limit.
        min_edge: see `open_image`.
    """

    def __init__(
        self,
        max_pixels: int = MAX_PIXELS,
        allow_truncated: bool = False,
        limit_s: float | None = None,
        min_edge: int | None = None,
    ) -> None:
        limits = {"max_pixels": max_pixels, "allow_truncated": allow_truncated, "limit_s": limit_s}
        options = {**limits, "min_edge": min_edge}
        self._options = json.dumps(options)
        self._limit_s = limit_s
        self._of_thread = threading.local()
        self._children: set[_Child] = set()
        self._lock = threading.Lock()
        self._closed = False

    def open_image(self, data: Buffer) -> OpenedImage:
        """Read the header of an encoded image; its `decode` must be called on the same thread.

        Raises:
            ImageError: as `spark_embed.inference.decode.open_image` does; `corrupt` if the decoder crashes,
                `timeout`, `out_of_memory` if the system killed it.
            RuntimeError: the child does not start, has a bug, or was ended from outside.
        """
        child: _Child | None = getattr(self._of_thread, "child", None)
        if child is None or child.has_ended():
            child = self._of_thread.child = self._start()
        return _IsolatedImage(child, child.ask({"op": "open", "n_bytes": len(data)}, data))

    def close(self) -> None:
        """End all children, whatever they are doing."""
        with self._lock:
            self._closed = True
        for child in self._children:
            child.end()

    def _start(self) -> _Child:
        with self._lock:
            if self._closed:
                raise RuntimeError("this decoder has been closed")
            child = _Child(self._options, self._limit_s)
            self._children = {other for other in self._children if not other.has_ended()} | {child}
        child.wait_until_ready()
        return child


def keep_decodable(images: Iterable[tuple[Buffer, Any]], decoder: Decoder) -> Iterator[tuple[Buffer, Any]]:
    """Yield those images, with what comes beside, that a child can decode; closes `decoder` at the end."""
    try:
        for data, beside in images:
            with suppress(ImageError):
                decoder.open_image(data).decode()
                yield data, beside
    finally:
        decoder.close()


class _IsolatedImage:
    """An image that a child has opened."""

    def __init__(self, child: _Child, described: dict[str, Any]) -> None:
        self.width: int = described["width"]
        self.height: int = described["height"]
        self.n_pixels: int = described["n_pixels"]
        self.peak_bytes: int = described["peak_bytes"]
        self.scale: int = described["scale"]
        self.box: Box | None = None
        self._child = child

    def decode(self) -> Pixels:
        """Return the pixels; see `OpenedImage.decode`."""
        reply = self._child.ask({"op": "decode"})
        self.box = reply["box"] and tuple(reply["box"])
        return self._child.receive_pixels(reply["shape"])


class _Child:
    """One process and the pipes to it."""

    def __init__(self, options: str, limit_s: float | None) -> None:
        self._limit_s = limit_s
        # The worker may have found this package on a path that Spark gave it (--py-files).
        python_path = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "spark_embed.inference.decode.child", options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": python_path},
        )
        self._requests = cast(BinaryIO, self._process.stdin)
        self._replies = cast(BinaryIO, self._process.stdout)

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait_until_ready(self) -> None:
        """Wait for its imports.

        Raises:
            RuntimeError: it ended before it had seen an image.
        """
        if read_header(self._replies) is None:
            self.end()
            raise RuntimeError(f"the decoding child does not start: {self._status()}; see the worker's log")

    def ask(self, header: dict[str, Any], payload: Buffer = b"") -> dict[str, Any]:
        """Send a request and return the reply's header.

        Raises:
            ImageError: the reply, or what the child died of.
        """
        with suppress(BrokenPipeError):  # it is dead: the missing reply says so
            write_message(self._requests, header, payload)
        reply = read_header(self._replies)
        if reply is None:
            raise self._why_it_ended()
        if "error" in reply:
            raise ImageError(reply["error"], reply["detail"])
        return reply

    def receive_pixels(self, shape: list[int]) -> Pixels:
        """Read the payload that follows a reply."""
        try:
            pixels = np.empty(shape, dtype=np.uint8)
        except MemoryError as exc:
            self.end()  # its next bytes would be pixels, not a reply
            raise ImageError("out_of_memory", "while receiving the pixels") from exc
        if self._replies.readinto(pixels.data.cast("B")) < pixels.nbytes:  # type: ignore[attr-defined]
            raise self._why_it_ended()
        return pixels

    def end(self) -> None:
        """Kill it and forget its pipes; no process stays behind."""
        self._process.kill()
        self._process.wait()
        for stream in (self._requests, self._replies):
            with suppress(OSError):  # bytes that it never read
                stream.close()

    def _why_it_ended(self) -> Exception:
        try:
            status = self._process.wait(_END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self.end()
        if status == -signal.SIGALRM:
            return ImageError("timeout", f"decoding took longer than {self._limit_s:g} s")
        if status == -signal.SIGKILL:
            return ImageError("out_of_memory", "the decoder was killed (SIGKILL), most likely for its memory")
        if status == _UNCAUGHT_EXCEPTION or -status in _ENDED_FROM_OUTSIDE:
            return RuntimeError(f"the decoding child ended: {self._status()}; see the worker's log")
        return ImageError("corrupt", f"the decoder crashed ({self._status()})")

    def _status(self) -> str:
        status = self._process.returncode
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"
