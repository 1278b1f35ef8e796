"""Downloads that run beside a task, on an event loop in one thread of their own; knows no rows and no images.

The thread starts with the first download, so that a worker which meets no url has none.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from spark_embed.inference.fetch.memory import DownloadMemory, MemoryFullError
from spark_embed.inference.fetch.references import FetchPolicy
from spark_embed.storage import is_s3

if TYPE_CHECKING:
    from spark_embed.inference.fetch.http_client import HttpClient
    from spark_embed.inference.fetch.object_client import ObjectClient

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
_CLOSE_WITHIN_S = 5.0
# To look up a name blocks: as many threads as may wait at once for a slow name server.
_N_NAME_THREADS = 8


class Download:
    """One image on its way.

    Attributes:
        number: of the downloads of a task, in the order of their rows.
        seconds: that connections were busy for it, so far.
    """

    def __init__(self, number: int, uri: str) -> None:
        self.number = number
        self.uri = uri
        self.seconds = 0.0
        self.future: Future[bytearray] = Future()

    @property
    def is_done(self) -> bool:
        """Whether it has come to an end, good or bad."""
        return self.future.done()


class Downloads:
    """The downloads of one task. Close it when the task ends, however it ends."""

    def __init__(self, policy: FetchPolicy) -> None:
        self._policy = policy
        # Twice as many as may be in flight: some will wait for their host while others can go on.
        self._max_begun = 2 * policy.download.concurrency
        self._memory = DownloadMemory(policy.download.memory_bytes, self._max_begun)
        self._n_added = 0
        self._thread: threading.Thread | None = None
        self._cause: BaseException | None = None
        # Of the thread:
        self._queue: deque[Download] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, uri: str) -> Download:
        """Queue the download of an http(s) url or of an object in S3.

        It begins when it is its turn and there is memory for it.

        Raises:
            RuntimeError: the thread has died.
        """
        if self._thread is None:
            self._start_thread()
        download = Download(self._n_added, uri)
        self._n_added += 1
        self._queue.append(download)
        self._call(self._begin_next)
        return download

    def wait(self, download: Download) -> None:
        """Wait until a download has come to an end.

        Raises:
            RuntimeError: the thread has died.
        """
        while not wait([download.future], _LOOK_EVERY_S).done:
            self._check_alive()

    def result(self, download: Download) -> bytearray:
        """Wait for a download and return its bytes; they count as held until they are given back.

        Raises:
            ImageError: why there are none.
            RuntimeError: the thread has died.
        """
        self.wait(download)
        return download.future.result()

    def give_back(self, n_bytes: int) -> None:
        """Say that so many bytes of finished downloads are not held any more."""
        if self._memory.give_back(n_bytes):
            self._call(self._begin_next)

    def close(self) -> None:
        """End all downloads and the thread."""
        if self._thread is None:
            return
        with suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(_CLOSE_WITHIN_S)

    def _start_thread(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._clients: asyncio.Future[tuple[HttpClient, ObjectClient]] = self._loop.create_future()
        self._closing = asyncio.Event()
        # A daemon: an interpreter that ends does not wait for it.
        self._thread = threading.Thread(target=self._main, name="download", daemon=True)
        self._thread.start()

    def _call(self, function: Callable[[], None]) -> None:
        """Run a function of this class in the thread."""
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed
            self._check_alive(patience_s=_CLOSE_WITHIN_S)
            raise

    def _check_alive(self, patience_s: float = 0.0) -> None:
        assert self._thread is not None  # noqa: S101  for mypy
        self._thread.join(patience_s)
        if not self._thread.is_alive():
            raise RuntimeError("the thread that downloads has died") from self._cause

    def _main(self) -> None:
        """Run the event loop until `close`, or until something breaks it."""
        names = ThreadPoolExecutor(_N_NAME_THREADS, thread_name_prefix="name")
        self._loop.set_default_executor(names)
        self._loop.set_exception_handler(_log_failure)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as exc:  # noqa: BLE001  raised again where a download is asked for
            self._cause = exc
        finally:
            names.shutdown(wait=False, cancel_futures=True)  # a slow name server is not waited for
            self._loop.close()

    async def _serve(self) -> None:
        # Imported where it is needed: most data sets have no urls, and it takes a third of a second.
        from spark_embed.inference.fetch.http_client import HttpClient
        from spark_embed.inference.fetch.object_client import ObjectClient

        policy = self._policy.download, self._policy.max_bytes
        async with HttpClient(*policy) as http, ObjectClient(*policy) as objects:
            self._clients.set_result((http, objects))
            await self._closing.wait()
            self._queue.clear()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin_next(self) -> None:
        """Begin as many downloads as may be under way."""
        self._memory.wake()
        while self._queue and len(self._tasks) < self._max_begun and not self._memory.is_full:
            download = self._queue.popleft()
            self._memory.begin(download.number)
            task = self._loop.create_task(self._run(download))
            self._tasks.add(task)
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._begin_next()

    async def _run(self, download: Download) -> None:
        """Bring a download to its end, whatever that is."""
        data: bytearray | None = None
        try:
            http, objects = await asyncio.shield(self._clients)
            client = objects if is_s3(download.uri) else http
            while data is None:
                try:
                    data = await self._get(client, download)
                except MemoryFullError as exc:
                    self._memory.claim(download.number, 0, None)
                    await self._memory.wait_for(download.number, exc.n_bytes)
        except BaseException as exc:  # noqa: BLE001  raised again where its bytes are asked for
            self._memory.end(download.number, keep=False)
            download.future.set_exception(exc)
        else:
            self._memory.end(download.number, keep=True)
            download.future.set_result(data)

    async def _get(self, client: HttpClient | ObjectClient, download: Download) -> bytearray:
        from spark_embed.inference.fetch.http_client import Transfer

        transfer = Transfer(partial(self._memory.claim, download.number))
        try:
            return await client.get(download.uri, transfer)
        finally:
            download.seconds += transfer.seconds


def _log_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody waits for without its details: they may hold a url and its password."""
    exc = context.get("exception")
    logger.debug("download thread: %s (%s)", context.get("message"), type(exc).__name__)
