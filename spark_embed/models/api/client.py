"""Requests of one process, on an event loop in a thread of their own; knows no column and no batch.

Which are on their way and who waits for them; what stops the run stops all of them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import aiohttp

from spark_embed.errors import RowError, SparkEmbedError
from spark_embed.models.api.answers import Answers
from spark_embed.models.api.asker import Answer, Asker
from spark_embed.models.api.file import ApiFile
from spark_embed.models.api.providers import Asking
from spark_embed.models.api.replies import SpoiledError, read_answer

_LOOK_EVERY_S = 0.5


@dataclass(eq=False)
class Asked:
    """A request on its way; `term` says of which task."""

    key: str
    term: int
    future: Future[Answer] = field(default_factory=Future)


class Client:
    """Asks a provider. Its thread ends with `close`, or with the process.

    Args:
        api: the description.
        asking: how its provider is asked.
        asker: what asks it.
        answers: where they are kept.
    """

    def __init__(self, api: ApiFile, asking: Asking, asker: Asker, answers: Answers) -> None:
        self._api, self._asking, self._asker, self._answers = api, asking, asker, answers
        self._waiting = threading.BoundedSemaphore(2 * api.concurrency)  # images held in memory
        self._term = 0
        self._pending: dict[str, Asked] = {}  # by key: identical images are asked about once
        self._lock = threading.Lock()
        self._stopped: SparkEmbedError | None = None
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self._session: asyncio.Future[aiohttp.ClientSession] = self._loop.create_future()
        # A daemon: an interpreter that ends does not wait for it.
        self._thread = threading.Thread(target=self._main, name="api", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Begin a task: what earlier ones have left unasked is not asked; others' answers are taken in."""
        self._term += 1
        self._stopped = None  # in a run that is tried again
        self._asker.patience.renew()
        self._answers.refresh()

    def end(self) -> None:
        """End a task: what it has left unasked is not asked, and what was answered is stored.

        Raises:
            StorageError: it cannot be stored.
        """
        self._term += 1
        self._answers.flush()

    def ask(self, data: bytes, make: Callable[[bytes], tuple[str, bytes]]) -> Asked:
        """Ask about an image, unless an answer is kept or on its way; waits while too many wait for theirs.

        Args:
            data: the image, as it was fetched.
            make: gives what is sent of it, and its media type.

        Raises:
            RowError: of `make`.
            SparkEmbedError: the run must stop.
        """
        asked = Asked(self._asking.key(data), self._term)
        with self._lock:
            earlier = self._pending.get(asked.key)
            if earlier is not None and earlier.term == asked.term:
                return earlier
            self._pending[asked.key] = asked
        try:
            if (text := self._answers.find(asked.key)) is not None:
                self._end(asked, _as_answer(text))
                return asked
            kind, data = make(data)
            while not self._waiting.acquire(timeout=_LOOK_EVERY_S):
                self._check()
            self._check()
            asyncio.run_coroutine_threadsafe(self._begin(asked, kind, data), self._loop)
        except BaseException as exc:
            self._end(asked, exc)
            raise
        return asked

    def result(self, asked: Asked) -> Answer:
        """Wait for an answer.

        Raises:
            RowError: there is none.
            SparkEmbedError: the run must stop.
        """
        while not wait([asked.future], _LOOK_EVERY_S).done:
            self._check()
        self._check()
        return asked.future.result()

    def close(self) -> None:
        """End the thread, and what is asked."""
        with suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._closing.set)

    def _end(self, asked: Asked, outcome: Answer | BaseException) -> None:
        """Tell all who wait for it how a request has ended."""
        if isinstance(outcome, Answer):
            asked.future.set_result(outcome)
        else:
            asked.future.set_exception(
                outcome.without_traceback() if isinstance(outcome, RowError) else outcome
            )
        with self._lock:
            if self._pending.get(asked.key) is asked:
                del self._pending[asked.key]

    def _check(self) -> None:
        """Raise what stops the run, once the answers to all that has gone are kept."""
        if self._stopped is not None:
            give_up = time.monotonic() + self._api.timeout_s
            while self._asker.n_in_flight and time.monotonic() < give_up:
                time.sleep(_LOOK_EVERY_S / 10)
            self._answers.flush()
            raise type(self._stopped)(
                str(self._stopped)
            )  # many threads raise it, each with its own traceback
        if not self._thread.is_alive():
            raise RuntimeError("the thread that asks has died")

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        async with self._asker.session() as session:
            self._session.set_result(session)
            while not self._closing.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), _LOOK_EVERY_S)
                if self._answers.is_due:
                    await self._flush_if_due()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            with suppress(SparkEmbedError):  # nobody is left to tell
                self._answers.flush()  # here: an interpreter that ends gives no other thread

    async def _flush_if_due(self) -> None:
        try:
            await asyncio.to_thread(self._answers.flush, if_due=True)
        except SparkEmbedError as exc:
            self._stopped = exc

    async def _begin(self, asked: Asked, kind: str, data: bytes) -> None:
        task = self._loop.create_task(self._bring(asked, kind, data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring(self, asked: Asked, kind: str, data: bytes) -> None:
        """Bring a request to its end, whatever that is."""
        try:
            session = await self._session
            check = partial(self._check_wanted, asked)
            answer = await self._asker.bring(session, asked.key, kind, data, check)
            if self._answers.is_due:
                await self._flush_if_due()
        except BaseException as exc:  # noqa: BLE001  raised again where the answer is asked for
            if isinstance(exc, SparkEmbedError):
                exc = self._stopped = self._stopped or exc
            self._end(asked, exc)
        else:
            self._asker.patience.renew()
            self._end(asked, answer)
        finally:
            self._waiting.release()

    def _check_wanted(self, asked: Asked) -> None:
        """Ask no more for a task that has ended, or for a run that stops."""
        if self._stopped is not None:
            raise self._stopped
        if asked.term != self._term:
            raise asyncio.CancelledError


def _as_answer(text: str) -> Answer:
    try:
        return Answer(text, read_answer(text))
    except SpoiledError as exc:
        return Answer(text, exc)
