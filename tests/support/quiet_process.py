"""Memory and time of decoding, in a process where nothing else runs.

A test process has threads of its own (a session's, a server's, imports in the background): what they take
would be counted too.
"""

import ctypes
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from spark_embed.errors import ImageError
from spark_embed.inference.decode import can_decode_heic, open_image
from spark_embed.inference.decode.heif import register_heif

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


@dataclass(frozen=True)
class Decoded:
    """What decoding some bytes came to, and took."""

    code: str | None
    detail: str
    announced: int
    n_bytes: int
    grown_by: int
    cpu_s: float


class QuietProcess:
    """One process that decodes what it is given and counts what that takes."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def decode(self, data: bytes) -> Decoded:
        self._pool.submit(_decode, data).result()  # codecs and their tables are loaded once
        return self._pool.submit(_decode, data).result()


@contextmanager
def quiet_process() -> Iterator[QuietProcess]:
    """Start the process, and end it.

    Raises:
        OSError, AttributeError: the kernel does not keep the peak of a process's memory, or no glibc.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(_count_from_now).result()
        yield QuietProcess(pool)


def _decode(data: bytes) -> Decoded:
    if can_decode_heic():
        register_heif()
    code, detail, announced, n_bytes = None, "", 0, 0
    start, started = _count_from_now(), time.thread_time()
    try:
        opened = open_image(data)
        announced = opened.peak_bytes
        n_bytes = opened.decode().nbytes
    except ImageError as error:
        code, detail = error.code, error.detail
    return Decoded(code, detail, announced, n_bytes, _peak() - start, time.thread_time() - started)


def _count_from_now() -> int:
    libc = ctypes.CDLL(None)
    # Else what was freed before decides which blocks leave holes in the heap, and so the peak.
    libc.mallopt(_M_MMAP_THRESHOLD, 128 << 10)
    libc.malloc_trim(0)  # else freed memory is taken again unseen
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): reset the peak
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
