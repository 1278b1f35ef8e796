"""A proxy in front of an S3 server that does to requests what a busy, broken or lesser store does."""

import asyncio
import contextlib
import random
import threading
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from support.http_messages import HEAD_BYTES, Head, read_head
from support.http_relay import ENDS, HangUpError, Link, pass_on, refuse, reset
from support.s3_requests import CONDITIONS, is_conditional_write, key_of, operation_of, sign_without
from support.s3_server import free_port
from support.s3_store import Store

FAULTS = ("slow_down", "reset", "delay", "cut")

ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>{}</Message></Error>'
SLOW_DOWN = 503, "Slow Down", ERROR.format("SlowDown", "Please reduce your request rate.")
NOT_IMPLEMENTED = 501, "Not Implemented", ERROR.format("NotImplemented", "A header is not implemented.")


class Asked(NamedTuple):
    """One request that came; `operation` is S3's name for it, `fault` what was done to it."""

    operation: str
    path: str
    fault: str | None


@dataclass
class BadS3:
    """Runs on a thread from `with` to its end. What it is told may be changed meanwhile.

    A request is passed on as it came, its Host too, which is signed. Of the faults:
    - slow_down: 503 SlowDown; the server hears nothing of it.
    - reset: RST before any answer; the server hears nothing of it.
    - delay: `delay_s` seconds first.
    - cut: the server does it, and half of the answer's body comes. Where there is no body nothing comes: who
      sent a PutObject learns only that the connection has ended.

    Which requests they meet depends on the seed, the operation, the key and how often that was asked before;
    not on the bucket's name, nor on the order in which threads ask.

    Attributes:
        rate: share of the requests that meet a fault, 0 to 1.
        only: the operations that faults may meet, such as `{"GetObject"}`; None for all.
        conditional: what becomes of If-Match and If-None-Match in writes: "kept", "refused" (501), or
            "ignored", as if unknown to the store (the request is signed again, with the keys of `store`).
        asked: the requests, in order.
    """

    store: Store
    rate: float = 0.0
    faults: tuple[str, ...] = FAULTS
    seed: int = 0
    delay_s: float = 1.0
    only: set[str] | None = None
    conditional: str = "kept"
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> "BadS3":
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._times: Counter[tuple[str, str]] = Counter()
        self._next: dict[str, deque[str]] = defaultdict(deque)
        self._links: dict[asyncio.Task, Link] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bad-s3")
        self._thread.start()
        self.up()
        return self

    def __exit__(self, *exc_info) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def fail_next(self, operation: str, *faults: str) -> None:
        """Let the next request of an operation meet a fault, and those after it the others."""
        self._next[operation].extend(faults)

    def down(self) -> None:
        """End all connections, whatever goes on there, and refuse new ones."""
        self._run(self._close())

    def up(self) -> None:
        """Take connections again."""
        self._run(self._listen())

    @property
    def requests(self) -> Counter[str]:
        """How many requests of each operation came, those included that met a fault."""
        return Counter(asked.operation for asked in self.asked)

    @property
    def met(self) -> Counter[tuple[str, str]]:
        """How many requests met each fault: by (fault, operation)."""
        return Counter((asked.fault, asked.operation) for asked in self.asked if asked.fault)

    def _run(self, coroutine) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=HEAD_BYTES)

    async def _close(self) -> None:
        self._server.close()
        for task, link in self._links.items():
            reset(link)
            task.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link, task = Link(reader, writer), asyncio.current_task()
        self._links[task] = link
        try:
            with contextlib.suppress(*ENDS):
                while True:
                    await self._answer(await read_head(reader), link)
        finally:
            del self._links[task]
            writer.close()

    async def _answer(self, head: Head, link: Link) -> None:
        fault = self._choose(head)
        conditional = self.conditional if is_conditional_write(head) else "kept"
        if conditional == "refused" and fault not in ("slow_down", "reset"):
            fault = "refused"
        self.asked.append(Asked(operation_of(head), head.path, fault))
        if fault == "reset":
            reset(link)
            raise HangUpError
        if fault in ("slow_down", "refused"):
            await refuse(head, link, *(SLOW_DOWN if fault == "slow_down" else NOT_IMPLEMENTED))
            return
        if fault == "delay":
            await asyncio.sleep(self.delay_s)
        if conditional == "ignored":
            head = sign_without(head, CONDITIONS, self.store)
        await pass_on(head, link, self.store.endpoint, cut=fault == "cut")

    def _choose(self, head: Head) -> str | None:
        operation = operation_of(head)
        if self._next[operation]:
            return self._next[operation].popleft()
        if self.only is not None and operation not in self.only:
            return None
        what = operation, key_of(head)
        self._times[what] += 1
        dice = random.Random(f"{self.seed} {what} {self._times[what]}")
        return dice.choice(self.faults) if dice.random() < self.rate else None
