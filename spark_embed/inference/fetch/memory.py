"""The memory that downloads of one task may take together; knows nothing of what is downloaded."""

from __future__ import annotations

import asyncio
import threading


class MemoryFullError(Exception):
    """There is no memory for so large an image now: its download must end, and begin anew when there is."""

    def __init__(self, n_bytes: int) -> None:
        super().__init__(f"{n_bytes} bytes")
        self.n_bytes = n_bytes


class DownloadMemory:
    """Bytes that have arrived and are not decoded yet; kept by the event loop, given back from any thread.

    Small images (`total_bytes` over `n_downloads`) always find room, so those that have begun take as much
    again at most. A larger one is sent away while there is none; it holds nothing while it waits. The
    oldest download is never sent away: all that is held may wait for it.

    Args:
        total_bytes: beyond which no download should begin.
        n_downloads: that are begun at once.
    """

    def __init__(self, total_bytes: int, n_downloads: int) -> None:
        self._total = total_bytes
        self._small = total_bytes // n_downloads
        self._used = 0
        self._lock = threading.Lock()
        self._arrived: dict[int, int] = {}  # bytes by download, the oldest download first
        self._n_waiting = 0
        self._changed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether no more downloads should begin."""
        return self._used >= self._total

    def begin(self, number: int) -> None:
        """Let a download in; its number is larger than those before it."""
        self._arrived[number] = 0

    def claim(self, number: int, n_bytes: int, announced: int | None) -> None:
        """Note how much of a download has arrived.

        Raises:
            MemoryFullError: it is large, not the oldest, and what it has or announces does not fit.
        """
        self._add(n_bytes - self._arrived[number])
        self._arrived[number] = n_bytes
        size = max(n_bytes, announced or 0)
        if size > self._small and self._used - n_bytes + size > self._total and not self._is_oldest(number):
            raise MemoryFullError(size)

    async def wait_for(self, number: int, n_bytes: int) -> None:
        """Wait until so many bytes are free, or the download is the oldest."""
        self._n_waiting += 1
        try:
            while self._used + n_bytes > self._total and not self._is_oldest(number):
                self._changed.clear()
                await self._changed.wait()
        finally:
            self._n_waiting -= 1

    def end(self, number: int, *, keep: bool) -> None:
        """Let a download out. What it has brought still counts if `keep`, until it is given back."""
        n_bytes = self._arrived.pop(number)
        if not keep:
            self._add(-n_bytes)
        self.wake()  # another may be the oldest now

    def give_back(self, n_bytes: int) -> bool:
        """Free what a finished download has brought, from any thread; say whether that helps anybody."""
        was_full = self.is_full
        self._add(-n_bytes)
        return was_full or self._n_waiting > 0

    def wake(self) -> None:
        """Let those that wait look again."""
        self._changed.set()

    def _add(self, n_bytes: int) -> None:
        with self._lock:
            self._used += n_bytes

    def _is_oldest(self, number: int) -> bool:
        return number == next(iter(self._arrived))
