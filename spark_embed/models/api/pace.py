"""How fast requests may go: two limits that processes of a machine share in a file; knows no HTTP.

Each request takes the next free place in time. Of requests there is one place every 1/rate seconds; of pages
or tokens a request takes as many as an answer had on average, and the difference once its answer says how
many it had. So no second has more than the rate and what a few milliseconds of jitter move.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass

_DOUBLES = struct.Struct("<4d")
_NEW_SHARE = 0.1  # of one answer in the average


@dataclass
class _Places:
    """When the next request may go, by both limits and by what the provider has asked for; monotonic seconds.

    `mean_units` is of an answer; 0 while none is known.
    """

    request: float = 0.0
    units: float = 0.0
    held: float = 0.0
    mean_units: float = 0.0


class Pace:
    """The limits of a key, or this process's part of them.

    Args:
        path: of the file that the processes share; its folder is there as long as they are, and no longer:
            the clock begins anew with the machine. None: this process has the limits for itself.
        requests_per_s: None for no limit.
        units_per_s: pages or tokens; None for no limit.
    """

    def __init__(self, path: str | None, requests_per_s: float | None, units_per_s: float | None) -> None:
        self._path = path
        self._request_s = 1 / requests_per_s if requests_per_s else 0.0
        self._unit_s = 1 / units_per_s if units_per_s else 0.0
        self._own = _Places()

    async def turn(self) -> float:
        """Wait for the next free place; returns the units that it was reckoned with."""
        while True:
            with self._places() as places:
                now = time.monotonic()
                # Before the first answer, what may pass in a second.
                units = places.mean_units or (1 / self._unit_s if self._unit_s else 0.0)
                start = max(now, places.held, places.request)
                if self._unit_s:
                    start = max(start, places.units)
                    places.units = start + units * self._unit_s
                places.request = start + self._request_s
            if start > now:
                await asyncio.sleep(start - now)
            with self._places() as places:
                if places.held <= time.monotonic():
                    return units

    def settle(self, reckoned: float, units: float) -> None:
        """Say how many units an answer had, where so many were reckoned with."""
        with self._places() as places:
            places.units += (units - reckoned) * self._unit_s
            mean = places.mean_units
            places.mean_units = mean + _NEW_SHARE * (units - mean) if mean else units

    def hold(self, seconds: float) -> None:
        """Let no request go for so long, as a provider has asked."""
        with self._places() as places:
            places.held = max(places.held, time.monotonic() + seconds)

    @contextmanager
    def _places(self) -> Iterator[_Places]:
        if self._path is None:
            yield self._own
            return
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            data = os.pread(file, _DOUBLES.size, 0)
            places = _Places(*_DOUBLES.unpack(data)) if len(data) == _DOUBLES.size else _Places()
            yield places
            os.pwrite(file, _DOUBLES.pack(*astuple(places)), 0)
        finally:
            os.close(file)
