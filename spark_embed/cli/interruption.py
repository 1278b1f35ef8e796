"""Ctrl-C and SIGTERM: one KeyboardInterrupt, a quiet JVM, an end in time, whatever hangs. Knows no Spark."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

EXIT_CODE = 130

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SILENCE_S = 1.0
_END_S = 8.0


class Interruption:
    """What a signal does to this process. Lives on the driver's main thread; on another it does nothing.

    Once a run has begun, the first one raises KeyboardInterrupt, and the run lets go of what it has. If that
    takes too long, or at a second signal, the process ends at once: what is complete is on the disk, and the
    JVM ends, too. Before, it ends at once in any case: pyspark, interrupted while it starts the JVM, would
    leave that behind for good.

    Args:
        say: tells the person what to do; called once, at the very end.
    """

    def __init__(self, say: Callable[[], None]) -> None:
        self._say = say
        self._seen = threading.Event()
        self._said = threading.Lock()
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    @property
    def is_seen(self) -> bool:
        """Whether a signal has come: what fails from now on fails because of it."""
        return self._seen.is_set()

    def watch(self) -> None:
        """Take the signals over: nothing has begun."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            for pid in _children():  # a JVM that is starting would first say this and that
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._end()

        self._take_over(on_signal)

    def watch_run(self, silence: Callable[[], None] | None) -> None:
        """Take the signals over again, from pyspark, whose handler calls the JVM from inside: the run begins.

        Args:
            silence: called at the first signal, on a thread of its own: what is cancelled then is no news.
        """

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self.is_seen:
                os._exit(EXIT_CODE)
            self._seen.set()
            self._start_timer()
            if silence is not None:
                thread = threading.Thread(target=silence, name="silence", daemon=True)
                thread.start()
                thread.join(_SILENCE_S)
            raise KeyboardInterrupt

        self._take_over(on_signal)

    def say(self) -> int:
        """Tell the person, unless that is done; return the exit code."""
        if self._said.acquire(blocking=False):
            self._say()
        return EXIT_CODE

    def let_go(self) -> None:
        """Give the signals back to whose process this is: it goes on."""
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take_over(self, on_signal: Callable[[int, FrameType | None], None]) -> None:
        if threading.current_thread() is not threading.main_thread():  # to others Python gives no signals
            return
        for number in _SIGNALS:
            self._before.setdefault(number, signal.signal(number, on_signal))

    def _start_timer(self) -> None:
        self._timer = threading.Timer(_END_S, self._end)
        self._timer.daemon = True
        self._timer.start()

    def _end(self) -> None:
        self.say()
        os._exit(EXIT_CODE)


def _children() -> list[int]:
    """Return the processes that this one has started; none where there is no /proc."""
    with suppress(OSError):
        tasks = os.listdir("/proc/self/task")
        return [int(pid) for task in tasks for pid in _read(f"/proc/self/task/{task}/children").split()]
    return []


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
