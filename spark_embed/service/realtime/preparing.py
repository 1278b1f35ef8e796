"""Decode threads for an event loop: what takes too long is given up, what nobody waits for is let go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from spark_embed.errors import ImageError
from spark_embed.inference.decode.pool import DecodePool, Job

Given = TypeVar("Given")
Made = TypeVar("Made")

_LOOK_EVERY_S = 0.5


class Preparing(Generic[Given, Made]):
    """The feed's threads (`DecodePool`), awaited; lives in one event loop.

    Args:
        work: runs on the threads, as `DecodePool` has it.
        on_timeout: makes what is given instead of work that takes longer than `limit_s`.
        n_threads: of them.
        limit_s: seconds that one may take inside `Job.decoding`.
    """

    def __init__(
        self,
        work: Callable[[Job[Given, Made]], Made],
        on_timeout: Callable[[Given, ImageError], Made],
        n_threads: int,
        limit_s: float,
    ) -> None:
        self._pool = DecodePool(work, on_timeout, n_threads, limit_s)

    async def prepare(self, given: Given) -> Made:
        """Return what a thread makes of it. Whoever cancels this lets go of what was given.

        Raises:
            Exception: what `work` raises.
        """
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        job = self._pool.submit(given, lambda: loop.call_soon_threadsafe(done.set))
        try:
            await done.wait()
        except asyncio.CancelledError:
            job.drop()
            raise
        try:
            return job.outcome()
        except SystemExit as exc:  # of a model's code; it would end the event loop
            raise RuntimeError(f"SystemExit: {exc}") from exc

    async def close(self) -> None:
        """End the threads, and wait a moment for those that are not stuck."""
        await asyncio.to_thread(self._pool.close)

    async def watch(self) -> None:
        """Give up what takes too long, until cancelled.

        Raises:
            RuntimeError: more threads are stuck than may be given up.
        """
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self._pool.abandon_stuck()
