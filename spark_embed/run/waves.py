"""Runs units in waves, two at a time, and marks each wave when it is complete; the driver's loop.

Two, so that no core idles while the last tasks of a wave end. Each wave's results are in a folder of its own,
without a shuffle; its marker is written last. What is interrupted before that never happened.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from functools import partial

from spark_embed.datasets import BadShard
from spark_embed.datasets.units import Unit, take_wave
from spark_embed.errors import SparkEmbedError, StoppedError
from spark_embed.output.records import Marker
from spark_embed.run.wave_failure import PassingStorageError, UnreadableShardsError
from spark_embed.run.wave_job import Wave, WaveContext, run_one

logger = logging.getLogger(__name__)

_WAVES_AT_ONCE = 2
_LOOK_EVERY_S = 0.5
_CANCEL_FOR_S = 6.0

# In a row. Who reads a store asks it again for a minute or two, but not all do so where an answer breaks off.
# Of a store that is away altogether the lock tells sooner.
_MAX_STORE_FAILURES = 6


def run_waves(
    context: WaveContext, units: Iterable[Unit], first_number: int, retries: Iterable[Wave] = ()
) -> list[BadShard]:
    """Embed the units; returns the shards that turned out to be unreadable, whose units stay pending.

    So do those that the limit leaves no time for; it then is reached.

    Args:
        context: what the waves share.
        units: rows to embed, in order; they are cut into waves.
        first_number: of the first wave.
        retries: waves over rows of errors.parquet, which come first.

    Raises:
        SparkEmbedError: nothing more can be done. The complete waves stay so.
    """
    return _Loop(context, units, first_number, retries).run()


class _Loop:
    def __init__(
        self, context: WaveContext, units: Iterable[Unit], first_number: int, retries: Iterable[Wave]
    ) -> None:
        self._context = context
        self._queue = deque(units)
        self._ready = deque(retries)
        self._number = first_number
        self._running: dict[Future[Marker], Wave] = {}
        self._bad: list[BadShard] = []
        self._suspects: set[str] = set()
        self._n_store_failures = 0  # waves that the store made fail, since one was complete
        self._started = time.monotonic()
        self._n_done = 0
        self._n_ended = 0  # rows of complete waves as they were planned

    def run(self) -> list[BadShard]:
        failure: Exception | None = None
        try:
            while self._running or (not failure and self._may_start()):
                while not failure and len(self._running) < _WAVES_AT_ONCE and self._may_start():
                    self._start()
                if self._context.limit.left_s <= 0:
                    failure = self._stop() or failure
                    break
                self._context.run.watch()
                for future in wait(self._running, _LOOK_EVERY_S, FIRST_COMPLETED).done:
                    failure = self._end(future) or failure
        except BaseException:  # Ctrl-C, too
            self._cancel()
            raise
        if failure:
            raise failure
        self._context.limit.is_reached |= bool(self._queue or self._ready)
        self._context.limit.n_retries_left += sum(wave.n_retried for wave in self._ready)
        return self._bad

    def _may_start(self) -> bool:
        """Say whether there is another wave, and time for it."""
        return bool(self._queue or self._ready) and self._fitting_rows() > 0

    def _start(self) -> None:
        wave = self._ready.popleft() if self._ready else self._take()
        name = f"{self._number:05d}-{self._context.run.output.attempt}"
        self._number += 1
        self._running[_in_thread(partial(run_one, self._context, name, wave))] = wave

    def _take(self) -> Wave:
        return Wave(tuple(take_wave(self._queue, self._wave_rows())))

    def _wave_rows(self) -> int:
        """Return the rows that a wave should have, by the speed so far and the time that is left."""
        n_rows: float = self._context.binding.wave_rows
        if self._n_done:
            n_rows = self._context.run.config.wave_s * self._n_done / (time.monotonic() - self._started)
        return round(min(n_rows, self._fitting_rows()))

    def _fitting_rows(self) -> float:
        """Return how many rows a wave may have that ends before the limit; 0: none."""
        row_s = self._context.binding.preflight.row_s
        rate = self._context.binding.n_slots / row_s if row_s else None
        if self._n_done:
            rate = self._n_done / (time.monotonic() - self._started)
        n_started = self._n_ended + sum(wave.n_rows for wave in self._running.values())
        n_under_way = n_started - self._context.jobs.n_done()
        return self._context.limit.fitting_rows(rate, n_under_way, is_measured=bool(self._n_done))

    def _end(self, future: Future[Marker]) -> Exception | None:
        """Take in a wave that has ended; return what makes going on pointless, if anything does."""
        wave = self._running.pop(future)
        try:
            marker = future.result()
        except UnreadableShardsError as exc:
            self._leave_out(wave, exc)
            return None
        except PassingStorageError as exc:
            self._n_store_failures += 1
            if self._n_store_failures >= _MAX_STORE_FAILURES:
                return exc
            logger.warning("a wave is done again: %s", str(exc).partition("; what is complete")[0])
            # In halves: the fewer files a wave reads, the likelier that nothing breaks off.
            half = (len(wave.units) + 1) // 2
            self._again(wave, wave.units[:half], wave.units[half:])
            return None
        except StoppedError as exc:
            self._context.limit.spent = str(exc).removeprefix("stopped at ")
            self._ready.append(wave)
            return None
        except Exception as exc:
            if isinstance(exc, SparkEmbedError) and exc.is_final:
                raise
            return exc
        self._n_store_failures = 0
        self._n_done += marker.counted.n_rows
        self._n_ended += wave.n_rows
        self._context.limit.saw(marker.counted.executors)
        self._context.done(marker)
        return None

    def _leave_out(self, wave: Wave, told: UnreadableShardsError) -> None:
        """Do a failed wave again without the shards that made it fail.

        Of one that may have failed only this once, the rows get a wave of their own first.
        """
        names = {shard.name for shard in told.bad}
        bad = names if told.is_certain else names & self._suspects
        self._suspects |= names
        for shard in told.bad:
            if shard.name not in bad:
                logger.warning("shard %s is read once more, by itself: %s", shard.name, shard.reason)
                continue
            if any(known.name == shard.name for known in self._bad):
                continue  # two waves had parts of it
            logger.warning("shard %s is left out, because it cannot be read: %s", shard.name, shard.reason)
            self._bad.append(shard)
        self._queue = deque(unit for unit in self._queue if unit.shard.name not in bad)
        others = (unit for unit in wave.units if unit.shard.name not in names)
        again = (unit for unit in wave.units if unit.shard.name in names - bad)
        self._again(wave, tuple(others), tuple(again))

    def _again(self, wave: Wave, *parts: tuple[Unit, ...]) -> None:
        self._ready += (replace(wave, units=units) for units in parts if units)

    def _stop(self) -> Exception | None:
        """Give up what is running at the limit, but not a wave that is complete by now.

        Returns what else makes going on pointless, if anything does.
        """
        self._cancel()
        failure = None
        for future in [future for future in self._running if future.done()]:
            exc = future.exception()
            if exc is None or (isinstance(exc, SparkEmbedError) and exc.is_final):
                failure = self._end(future) or failure
        self._context.limit.is_reached |= bool(self._running)
        self._context.limit.n_retries_left += sum(wave.n_retried for wave in self._running.values())
        return failure

    def _cancel(self) -> None:
        """Cancel what is running and wait a little, so that no task writes on behind our back."""
        deadline = time.monotonic() + _CANCEL_FOR_S
        while any(not future.done() for future in self._running) and time.monotonic() < deadline:
            self._context.jobs.cancel()
            wait(self._running, _LOOK_EVERY_S)


def _in_thread(function: Callable[[], Marker]) -> Future[Marker]:
    """Run a function on a thread of its own.

    Not one of a pool: Python would wait for those when it ends, and a call into the JVM that waits for a
    store that is away returns after minutes.
    """
    future = Future[Marker]()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as exc:  # noqa: BLE001  raised again where the result is asked for
            future.set_exception(exc)

    threading.Thread(target=run, name="wave", daemon=True).start()
    return future
