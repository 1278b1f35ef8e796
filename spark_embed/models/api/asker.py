"""One request to its end: asked when it may go, as often as is worth it, its answer kept; knows no row.

Everything here runs on the event loop of `spark_embed.models.api.client`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from spark_embed.errors import ModelError
from spark_embed.models.api.answers import Answers
from spark_embed.models.api.file import ApiFile
from spark_embed.models.api.pace import Pace
from spark_embed.models.api.patience import Patience
from spark_embed.models.api.providers import Asking
from spark_embed.models.api.replies import (
    PassingError,
    RefusedError,
    SpoiledError,
    read_answer,
    read_reply,
)
from spark_embed.models.api.spending import Spending

_CONNECT_S = 10.0
_MIN_SECRET_CHARS = 12  # servers that want none are given a word, which may be in any answer


@dataclass
class Answer:
    """An answer: as it came, and as JSON, or why it is none; `seconds` since its request went, if it did."""

    text: str
    value: dict[str, Any] | SpoiledError
    seconds: float | None = None


class Asker:
    """Asks a provider, so many requests at once as the description says, at the pace of the key.

    Args:
        api: the description.
        asking: how its provider is asked.
        answers: where they are kept.
        pace: of requests.
        spending: what they may cost.

    Attributes:
        patience: what has been met since the last answer.
        n_in_flight: requests that have gone and have no answer yet.
    """

    def __init__(
        self, api: ApiFile, asking: Asking, answers: Answers, pace: Pace, spending: Spending
    ) -> None:
        self._api, self._asking, self._answers = api, asking, answers
        self._pace, self._spending = pace, spending
        self._secret = api.read_key()
        self.patience = Patience(api.attempts, api.concurrency)
        self._turns = asyncio.Semaphore(api.concurrency)
        self.n_in_flight = 0

    def session(self) -> aiohttp.ClientSession:
        """Return what requests go through; it holds the key."""
        headers = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers={"User-Agent": "spark-embed", **headers},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._api.timeout_s, sock_connect=_CONNECT_S),
        )

    async def bring(
        self, session: aiohttp.ClientSession, key: str, kind: str, data: bytes, check: Callable[[], None]
    ) -> Answer:
        """Ask as often as the description says, as long as what fails may pass; return the answer.

        Args:
            session: of `session`.
            key: of the request.
            kind: the media type of what is sent.
            data: what is sent.
            check: raises why nothing more is to be asked.

        Raises:
            RowError: there is none.
            SparkEmbedError: the run must stop.
        """
        n_failed = 0
        while True:
            try:
                async with self._turns:
                    return await self._ask(session, key, kind, data, check)
            except RefusedError as exc:
                raise self.patience.refused(exc, self._said(exc)) from exc
            except PassingError as exc:
                n_failed += 1
                if isinstance(exc, SpoiledError) and n_failed >= self._api.attempts:
                    self._answers.add(key, exc.text, {}, None)
                    return Answer(exc.text, exc)
                if exc.code == "bad_answer":
                    self._answers.spoiled(key)
                pause_s = self.patience.pause_s(exc, self._said(exc), n_failed)
                self._pace.hold(exc.wait_s)
            await asyncio.sleep(pause_s)

    async def _ask(
        self, session: aiohttp.ClientSession, key: str, kind: str, data: bytes, check: Callable[[], None]
    ) -> Answer:
        """Ask once, when it is this request's turn.

        Raises:
            RefusedError, PassingError: there is no answer.
            SparkEmbedError: the run must stop.
        """
        check()
        reckoned = await self._pace.turn()
        await self._spending.check()
        check()
        self._answers.sent(key)
        self.n_in_flight += 1
        try:
            return await self._receive(session, key, self._asking.body(kind, data), reckoned)
        except (RefusedError, PassingError) as exc:
            if exc.is_unpaid:
                self._answers.unpaid(key)
            raise
        finally:
            self.n_in_flight -= 1

    async def _receive(
        self, session: aiohttp.ClientSession, key: str, body: dict[str, Any], reckoned: float
    ) -> Answer:
        """Send a request, and keep its answer."""
        started = time.monotonic()
        text = await read_reply(session, self._asking.url, body, self._hide)
        if self._secret and len(self._secret) >= _MIN_SECRET_CHARS:
            text = text.replace(self._secret, "***")
        value = read_answer(text)
        seconds = time.monotonic() - started
        usage = self._asking.usage(value)
        self._pace.settle(reckoned, self._asking.units(usage))
        model = value.get("model")
        self._answers.add(key, text, usage, model if isinstance(model, str) else None)
        if lacking := self._asking.lacking(usage):
            raise ModelError(f"{self._asking.url}: {lacking}")
        return Answer(text, value, seconds)

    def _said(self, exc: Exception) -> str:
        return f"{self._asking.url}: {exc}"

    def _hide(self, text: str) -> str:
        return text.replace(self._secret, "***") if self._secret else text
