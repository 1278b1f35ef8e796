"""What a provider's reply, or the lack of one, means for a request; knows no row and keeps nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import aiohttp

from spark_embed.errors import one_line
from spark_embed.retry_after import retry_after_s

_MAX_BYTES = 64 << 20
_PASSING = frozenset({408, 409, 425, 429})  # and all of 5xx
# Of the key, the account or the url, and hardly ever of an image.
_OF_ALL = frozenset({401, 402, 403, 404, 405})
_SAID_CHARS = 150


class RefusedError(Exception):
    """The provider will not answer, however often it is asked.

    `is_of_all`: by its status, it would answer no other request either.
    """

    is_unpaid = True

    def __init__(self, text: str, *, is_of_all: bool) -> None:
        super().__init__(text)
        self.is_of_all = is_of_all


class PassingError(Exception):
    """A failure that another attempt may not meet.

    Args:
        code: of the row, if no attempt is left.
        text: what a person needs to know.
        wait_s: seconds that the provider asks to be left alone.
        is_unpaid: nobody would charge for it.
    """

    def __init__(self, code: str, text: str, wait_s: float = 0.0, *, is_unpaid: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.wait_s = wait_s
        self.is_unpaid = is_unpaid


class SpoiledError(PassingError):
    """A good reply that is no answer, which may have been charged for; `text` is all of it."""

    def __init__(self, said: str, text: str) -> None:
        super().__init__("bad_answer", said)
        self.text = text


async def read_reply(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], hide: Callable[[str], str]
) -> str:
    """Send one request; return the text of a good reply. Redirects are not followed.

    Args:
        session: with the key.
        url: where it goes.
        body: of the request, as aiohttp's arguments.
        hide: takes the key out of what a provider says, before that is cut.

    Raises:
        RefusedError, PassingError: there is none.
    """
    try:
        async with session.post(url, allow_redirects=False, **body) as response:
            data = await _read(response)
            status, headers = response.status, response.headers
    except aiohttp.ClientConnectorCertificateError as exc:
        why = getattr(exc.certificate_error, "verify_message", "") or type(exc.certificate_error).__name__
        said = f"its certificate is not trusted where the tasks run: {one_line(why, _SAID_CHARS)}"
        raise RefusedError(said, is_of_all=True) from exc
    except aiohttp.ClientSSLError as exc:  # whose number is OpenSSL's, not the system's
        why = getattr(exc.os_error, "reason", None) or type(exc.os_error).__name__
        raise PassingError("unavailable", f"no connection by TLS: {one_line(why)}", is_unpaid=True) from exc
    except aiohttp.ClientConnectorError as exc:
        number = exc.os_error.errno
        reason = os.strerror(number) if number and number > 0 else type(exc.os_error).__name__
        raise PassingError("unavailable", f"no connection: {reason}", is_unpaid=True) from exc
    except TimeoutError as exc:
        raise PassingError("timeout", "no whole answer within timeout_s") from exc
    except (aiohttp.ClientError, OSError) as exc:
        # Not the library's own text, which may hold headers.
        raise PassingError("unavailable", f"the connection broke off: {type(exc).__name__}") from exc
    text = data.decode(errors="replace")
    if 200 <= status < 300:
        return text
    said = f"HTTP {status}{_explained(text, hide)}"
    if status == 429 and "insufficient_quota" in text:  # OpenAI's word for an account without credit
        raise RefusedError(said, is_of_all=True)
    if status in _PASSING or status >= 500:
        code = "rate_limited" if status == 429 else "unavailable"
        raise PassingError(code, said, retry_after_s(headers.get("Retry-After", "")), is_unpaid=True)
    if status < 400:
        raise RefusedError(f"{said}: redirects are not followed; correct base_url", is_of_all=True)
    raise RefusedError(said, is_of_all=status in _OF_ALL)


def read_answer(text: str) -> dict[str, Any]:
    """Return an answer's JSON.

    Raises:
        SpoiledError: it is none, as when it breaks off in the middle.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise SpoiledError("the answer is not JSON, or breaks off", text) from exc
    if not isinstance(value, dict):
        raise SpoiledError(f"the answer is no JSON object, but a {type(value).__name__}", text)
    return value


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > _MAX_BYTES:
            raise PassingError("bad_answer", f"the answer is longer than {_MAX_BYTES:,} bytes")
    return bytes(data)


def _explained(text: str, hide: Callable[[str], str]) -> str:
    """Return what a provider says of an error: its message, or the beginning of whatever it sent."""
    try:
        value = json.loads(text)
        error = value.get("error", value)
        said = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        said = text
    line = one_line(hide(str(said)), _SAID_CHARS)
    return f": {line}" if line else ""
