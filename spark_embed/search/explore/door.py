"""In front of every route: whose page may ask, sizes and time; errors in one shape, without a path of ours.

Browsers carry other people's pages, which can reach what listens on this machine only: so the name that was
asked for (https://en.wikipedia.org/wiki/DNS_rebinding) and the page that asks are looked at. Plain ASGI.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spark_embed.errors import ConfigError, ModelError, RowError, StorageError, one_line
from spark_embed.service.realtime.answers import JSON, to_json
from spark_embed.service.realtime.refusals import RefusedError, describe_error, refused_row

logger = logging.getLogger(__name__)

_MAX_BODY_BYTES = 65 << 20  # a picture and what goes with it
_MAX_BODIES_BYTES = 256 << 20
_LIMIT_S = 90.0

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Door:
    """ASGI middleware.

    Args:
        app: what is behind it.
        is_open: it may be asked for by any name; else by a loopback's only.
    """

    def __init__(self, app: ASGIApp, *, is_open: bool = False) -> None:
        self._app = app
        self._is_open = is_open
        self._n_bytes = 0  # of all bodies that are here

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun, n_bytes = False, 0

        async def send_marked(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        async def receive_counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_new = len(message.get("body", b""))
            self._check_bytes(n_bytes + n_new, n_new)
            n_bytes += n_new
            self._n_bytes += n_new
            return message

        try:
            headers = Headers(scope=scope)
            self._check_names(headers, scope["method"])
            length = headers.get("content-length", "")
            if length.isdecimal():
                self._check_bytes(int(length[:18]), int(length[:18]))
            async with asyncio.timeout(_LIMIT_S):
                await self._app(scope, receive_counted, send_marked)
        except Exception as exc:  # any at all: whoever asked is told, and the log says all of a bug
            if has_begun:
                raise
            refusal = explain(exc)
            body = to_json({"error": describe_error(refusal.code, refusal.message)})
            head = {"content-type": JSON, "content-length": str(len(body)), **refusal.headers}
            raw = [(name.lower().encode(), value.encode()) for name, value in head.items()]
            await send_marked({"type": "http.response.start", "status": refusal.status, "headers": raw})
            await send({"type": "http.response.body", "body": body})
        finally:
            self._n_bytes -= n_bytes

    def _check_names(self, headers: Headers, method: str) -> None:
        host = headers.get("host", "")
        if not self._is_open and not is_loopback(_name_of(f"//{host}")):
            raise RefusedError(403, "forbidden_host", "ask for it as localhost, or start it with --host")
        origin = headers.get("origin")
        is_elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        is_navigation = headers.get("sec-fetch-mode") == "navigate" and method == "GET"  # a link to the page
        is_foreign = origin is not None and origin.partition("://")[2] != host
        if is_foreign or (is_elsewhere and not is_navigation):
            raise RefusedError(403, "forbidden_origin", "another page may not ask here")

    def _check_bytes(self, n_bytes: int, n_new: int) -> None:
        if n_bytes > _MAX_BODY_BYTES:
            raise RefusedError(413, "too_many_bytes", f"at most {_MAX_BODY_BYTES >> 20} MB can be sent here")
        if self._n_bytes + n_new > _MAX_BODIES_BYTES:
            raise RefusedError(503, "busy", "too much is being sent at once; try again", 1.0)


def explain(exc: Exception) -> RefusedError:
    """Return what to say of an error; of those that may name a path of this machine the log says more."""
    if isinstance(exc, RefusedError):
        return exc
    if isinstance(exc, HTTPException):
        code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "refused")
        return RefusedError(exc.status_code, code, exc.detail, allow=(exc.headers or {}).get("Allow"))
    if isinstance(exc, RowError):
        return refused_row(exc)
    if isinstance(exc, ConfigError):
        return RefusedError(422, "invalid_parameters", str(exc))
    if isinstance(exc, ClientDisconnect):
        return RefusedError(499, "client_gone", "the client has gone")
    if isinstance(exc, TimeoutError):
        return RefusedError(504, "timeout", f"not answered within {_LIMIT_S:g} s")
    if isinstance(exc, (StorageError, ModelError)):
        logger.error("%s", exc)
        return RefusedError(500, "unreadable", "the data set or the model fails at this; the log says why")
    logger.error("a bug: %s", one_line(exc), exc_info=exc)
    return RefusedError(500, "internal_error", "an error of this program; its log says which")


def is_loopback(name: str | None) -> bool:
    """Say whether a name or address is of this machine for itself alone."""
    try:
        return name is not None and ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name is not None and name.casefold() == "localhost"


def _name_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # [ without ]
        return None
