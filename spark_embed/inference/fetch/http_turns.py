"""Whose turn it is to ask a host, and how much time an image has left; asks for nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

from yarl import URL

from spark_embed.errors import ImageError
from spark_embed.inference.fetch.http_answers import PassingError, describe_url


def loop_time() -> float:
    """Return the seconds of the event loop's clock."""
    return asyncio.get_running_loop().time()


class TimeLeft:
    """The time of one image, which `asyncio.timeout` ends."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit

    @property
    def seconds(self) -> float:
        """Seconds until the time is over."""
        when = self._limit.when()
        return float("inf") if when is None else when - loop_time()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Let time pass that is not the image's own."""
        left_s = self.seconds
        self._limit.reschedule(None)
        yield
        self._limit.reschedule(loop_time() + left_s)


class Turns:
    """Turns to ask: so many in all, and so many of each host."""

    def __init__(self, n_slots: int, n_per_host: int) -> None:
        self._slots = asyncio.Semaphore(n_slots)
        self._n_per_host = n_per_host
        self._hosts: WeakValueDictionary[str, _Host] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, url: URL, time_left: TimeLeft) -> AsyncIterator[None]:
        """Hold one of the host's turns, then one of all; to wait for them stops the clock.

        In this order, and nobody holds one of them while waiting for another host's: so no two wait for
        each other. A host that asks to be left alone (`PassingError.wait_s`) is.

        Raises:
            ImageError: the host asks for more time than the image has.
        """
        host = self._hosts.setdefault(url.host or "", _Host(self._n_per_host))
        await _take(host.turns, time_left)
        try:
            await host.rest(url, time_left)
            await _take(self._slots, time_left)
            try:
                yield
            finally:
                self._slots.release()
        except PassingError as exc:
            host.resume_at = max(host.resume_at, loop_time() + exc.wait_s)
            raise
        finally:
            host.turns.release()


class _Host:
    """What the requests to one host share; it goes when the last of them has."""

    def __init__(self, n_turns: int) -> None:
        self.turns = asyncio.Semaphore(n_turns)
        self.resume_at = 0.0  # of `loop_time`; until then the host wants to be left alone

    async def rest(self, url: URL, time_left: TimeLeft) -> None:
        """Wait as long as the host has asked for; see `Turns.turn`."""
        pause_s = self.resume_at - loop_time()
        if pause_s <= 0:
            return
        if pause_s > time_left.seconds:
            text = f"the host asks to wait for {pause_s:.0f} s: {describe_url(url)}"
            raise ImageError("fetch_failed", text)
        await asyncio.sleep(pause_s)


async def _take(turns: asyncio.Semaphore, time_left: TimeLeft) -> None:
    if turns.locked():
        with time_left.stopped():
            await turns.acquire()
    else:  # at once: to stop the clock would cost more than that
        await turns.acquire()
