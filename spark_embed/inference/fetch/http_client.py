"""An http(s) url -> the bytes behind it, within limits; knows no threads, no rows and no order.

Runs on the event loop of downloads.py, in a Spark task.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from weakref import WeakSet

import aiohttp
from yarl import URL

from spark_embed.errors import ImageError
from spark_embed.inference.fetch.addresses import make_public_socket
from spark_embed.inference.fetch.http_answers import (
    FINE,
    REDIRECTS,
    PassingError,
    describe_url,
    explain_failure,
    explain_status,
    next_url,
    parse_url,
)
from spark_embed.inference.fetch.http_turns import TimeLeft, Turns, loop_time
from spark_embed.inference.fetch.references import DownloadPolicy

# The pause after the first failure; it doubles with each. Jitter takes away up to half of it, so that what
# failed together does not come back together.
_PAUSE_S = 0.5
_MAX_PAUSE_S = 8.0

# Idle connections of a run over many hosts add up, and a process usually may open 1024 files.
_MAX_KEPT_SOCKETS = 256


@dataclass
class Transfer:
    """One image's way through the client.

    Attributes:
        claim: called with the bytes that have arrived so far and those that are announced (None if the
            server does not say); what it raises ends the transfer.
        seconds: that connections were busy for it, whether it came to anything or not.
    """

    claim: Callable[[int, int | None], None]
    seconds: float = 0.0

    async def receive(self, response: aiohttp.ClientResponse, max_bytes: int, shown: str) -> bytearray:
        """Return the body of an answer, as long as `claim` lets it go on.

        Args:
            response: a good answer.
            max_bytes: that an image may have.
            shown: what an error calls the image's place.

        Raises:
            ImageError: too_many_bytes.
        """
        expected = response.content_length
        data = bytearray()
        _check_size(expected or 0, max_bytes, shown)
        self.claim(0, expected)
        async for chunk in response.content.iter_any():
            data += chunk
            _check_size(len(data), max_bytes, shown)
            self.claim(len(data), expected)
        return data


def _check_size(n_bytes: int, max_bytes: int, shown: str) -> None:
    if n_bytes > max_bytes:
        raise ImageError("too_many_bytes", f"more than {max_bytes} bytes (--max_image_bytes): {shown}")


class HttpClient:
    """A session with its limits. Use it with `async with`, on one event loop."""

    def __init__(self, policy: DownloadPolicy, max_bytes: int) -> None:
        self._policy = policy
        self._max_bytes = max_bytes
        self._turns = Turns(policy.concurrency, policy.concurrency_per_host)
        self._sockets: WeakSet[socket.socket] = WeakSet()

    async def __aenter__(self) -> HttpClient:
        timeout = aiohttp.ClientTimeout(
            total=None, connect=self._policy.connect_timeout_s, sock_read=self._policy.read_timeout_s
        )
        self._session = aiohttp.ClientSession(
            # No limits of the connector's: there, to wait for a turn would count as connecting.
            connector=aiohttp.TCPConnector(limit=0, socket_factory=self._make_socket),
            # Without gzip there is no bomb: compressed bytes are just no image.
            auto_decompress=False,
            headers={"User-Agent": _user_agent(), "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=timeout,
            trust_env=False,  # a proxy would connect to addresses that are not seen here
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()
        await asyncio.sleep(0)  # transports close their sockets in the loop's next round

    async def get(self, uri: str, transfer: Transfer) -> bytearray:
        """Return the bytes at `uri`. The time that it waits for its turn does not count for its limits.

        Raises:
            ImageError: not_found, forbidden, too_many_bytes, timeout or fetch_failed.
        """
        url = parse_url(uri)
        try:
            async with asyncio.timeout(self._policy.timeout_s) as limit:
                return await self._try(_Request(url, transfer, TimeLeft(limit)))
        except TimeoutError:
            text = f"not there within {self._policy.timeout_s:g} s (--fetch_timeout_s): {describe_url(url)}"
            raise ImageError("timeout", text) from None

    async def _try(self, request: _Request) -> bytearray:
        """Ask as often as the policy says, as long as what fails may pass."""
        n_failed = 0
        while True:
            try:
                return await self._follow(request)
            except PassingError as exc:
                n_failed += 1
                pause_s = max(exc.wait_s, _pause_s(n_failed))
                if n_failed >= self._policy.attempts or pause_s > request.time_left.seconds:
                    raise exc.error from exc
            await asyncio.sleep(pause_s)

    async def _follow(self, request: _Request) -> bytearray:
        """Ask once, and follow redirects: each is asked for as if it were the first."""
        url = request.url
        for _ in range(self._policy.redirects + 1):
            async with self._turns.turn(url, request.time_left):
                started = loop_time()
                try:
                    answer = await self._ask(url, request.transfer)
                finally:
                    request.transfer.seconds += loop_time() - started
            if not isinstance(answer, URL):
                return answer
            url = answer
        text = (
            f"more than {self._policy.redirects} redirects (--fetch_redirects): {describe_url(request.url)}"
        )
        raise ImageError("fetch_failed", text)

    async def _ask(self, url: URL, transfer: Transfer) -> bytearray | URL:
        """Return the bytes of one answer, or the url to which it points."""
        headers = {"Connection": "close"} if len(self._sockets) > _MAX_KEPT_SOCKETS else None
        try:
            async with self._session.get(url, allow_redirects=False, headers=headers) as response:
                if response.status in REDIRECTS:
                    return next_url(response)
                if response.status not in FINE:
                    raise explain_status(response)
                return await transfer.receive(response, self._max_bytes, describe_url(response.url))
        except (aiohttp.ClientError, OSError, ValueError) as exc:  # ValueError: a host that no name can be
            limits_s = self._policy.connect_timeout_s, self._policy.read_timeout_s
            raise explain_failure(exc, url, limits_s) from exc

    def _make_socket(self, address_info: aiohttp.AddrInfoType) -> socket.socket:
        if self._policy.allow_private_addresses:
            made = socket.socket(*address_info[:3])
        else:
            made = make_public_socket(address_info)
        self._sockets.add(made)
        return made


@dataclass
class _Request:
    """One image's url, its way, and its time."""

    url: URL
    transfer: Transfer
    time_left: TimeLeft


def _pause_s(n_failed: int) -> float:
    longest: float = min(_MAX_PAUSE_S, _PAUSE_S * 2 ** (n_failed - 1))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  nobody gains by guessing it


def _user_agent() -> str:
    try:
        return f"spark-embed/{version('spark-embed')}"
    except PackageNotFoundError:  # a copy without its metadata: --py-files, PYTHONPATH
        return "spark-embed"
