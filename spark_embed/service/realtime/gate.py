"""In front of every route: request ids, keys, rates, sizes and time; errors in one shape; one log line each.

Plain ASGI: a body is counted while it arrives, and nothing of a refused request is read. Knows no model.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from limits import parse_many
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spark_embed.errors import one_line
from spark_embed.service.realtime.answers import JSON, to_json
from spark_embed.service.realtime.batcher import PredictError, QueueFullError
from spark_embed.service.realtime.engine import Engine, NotReadyError
from spark_embed.service.realtime.refusals import CLIENT_GONE, RefusedError, error_body

logger = logging.getLogger(__name__)

ASKING = ("/infer", "/v1/embeddings")
"""The routes that ask the model: what is counted, limited and timed."""

_OPEN = ("/health", "/ready", "/metrics")
"""The routes that need no key: probes and Prometheus have none."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""https://www.w3.org/TR/trace-context/: version, trace id, parent id, flags."""


@dataclass
class Passing:
    """One request on its way through the gate; routes find it in the scope's state.

    Attributes:
        request_id: the client's own, or a new one.
        trace_id: of its traceparent.
        status: that it was answered with; None until then.
        timings: seconds and sizes that the route found out, for the log.
    """

    request_id: str
    trace_id: str | None = None
    started: float = field(default_factory=time.perf_counter)
    n_bytes: int = 0
    status: int | None = None
    timings: dict[str, float] = field(default_factory=dict)


class Gate:
    """ASGI middleware.

    Args:
        app: what is behind it.
        engine: whose limits hold, and whose metrics count.
        api_key: that requests must bring; None for none.
    """

    def __init__(self, app: ASGIApp, engine: Engine, api_key: str | None = None) -> None:
        self._app = app
        self._engine = engine
        self._server = engine.settings.server
        self._api_key = api_key.encode() if api_key else None
        rate = self._server.rate_limit
        self._rates = parse_many(rate) if rate else []
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._n_bytes = 0  # of all bodies that are here

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passing = _begin(Headers(scope=scope))
        scope.setdefault("state", {})["passing"] = passing
        is_asking = scope["path"] in ASKING

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                passing.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = passing.request_id
            await send(message)

        try:
            await self._pass(scope, receive, send_marked, passing, is_asking=is_asking)
        finally:
            self._n_bytes -= passing.n_bytes
            if is_asking:
                self._tell(passing)

    async def _pass(
        self, scope: Scope, receive: Receive, send: Send, passing: Passing, *, is_asking: bool
    ) -> None:
        try:
            self._check_key(scope)
            if is_asking and scope["method"] == "POST":
                await self._check_rate(scope)
                self._engine.check_room()
                self._check_length(scope)
            async with asyncio.timeout(self._server.request_timeout_s):
                await self._app(scope, self._counted(receive, passing), send)
        except (Exception, asyncio.CancelledError) as exc:
            if passing.status is not None or not (self._engine.is_draining or isinstance(exc, Exception)):
                raise  # half an answer is out, or nobody waits for one
            refusal = self._explain(exc, passing)
            await _send_refusal(send, refusal, passing.request_id)
            if self._engine.metrics and is_asking:
                self._engine.metrics.count_errors({refusal.code: 1})

    def _explain(self, exc: BaseException, passing: Passing) -> RefusedError:
        """Return what to say of an error; of one that nobody meant, the log says all."""
        if isinstance(exc, RefusedError):
            return exc
        if isinstance(exc, QueueFullError):
            if self._engine.metrics:
                self._engine.metrics.queue_rejections.inc()
            return RefusedError(503, "queue_full", str(exc), exc.retry_after_s)
        if isinstance(exc, NotReadyError):
            return RefusedError(503, "not_ready", str(exc), 1.0)
        if isinstance(exc, PredictError):
            return RefusedError(500, "model_error", "the model failed at this batch; the log says how")
        if isinstance(exc, TimeoutError):
            limit_s = self._server.request_timeout_s
            return RefusedError(504, "timeout", f"not answered within request_timeout_s, {limit_s:g} s")
        if isinstance(exc, asyncio.CancelledError):
            return RefusedError(503, "shutting_down", "the service ended before this was answered", 1.0)
        if isinstance(exc, ClientDisconnect):
            return RefusedError(CLIENT_GONE, "client_gone", "the client has gone")
        logger.error("a bug: %s", one_line(exc), exc_info=exc, extra={"request_id": passing.request_id})
        return RefusedError(500, "internal_error", "an error of the service; the log says which")

    def _check_key(self, scope: Scope) -> None:
        if self._api_key is None or scope["path"] in _OPEN:
            return
        headers = Headers(scope=scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (token.strip() if scheme.lower() == "bearer" else "")
        if not hmac.compare_digest(given.encode(), self._api_key):
            raise RefusedError(
                401, "unauthorized", "send the service's key, as Authorization: Bearer KEY or X-Api-Key: KEY"
            )

    async def _check_rate(self, scope: Scope) -> None:
        client = (scope.get("client") or ("unknown",))[0]
        for rate in self._rates:
            if not await self._limiter.hit(rate, client):
                window = await self._limiter.get_window_stats(rate, client)
                raise RefusedError(
                    429, "rate_limited", f"more than {rate} from {client}", window.reset_time - time.time()
                )

    def _check_length(self, scope: Scope) -> None:
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal():
            self._check_bytes(int(length), int(length))

    def _check_bytes(self, n_bytes: int, n_new: int) -> None:
        """Refuse a body that is too large, or for which there is no room now."""
        if n_bytes > self._server.max_body_bytes:
            raise RefusedError(
                413, "too_many_bytes", f"the body has more than max_body_bytes, {self._server.max_body_bytes}"
            )
        if self._n_bytes + n_new > self._server.max_queue_bytes:
            if self._engine.metrics:
                self._engine.metrics.queue_rejections.inc()
            raise RefusedError(503, "queue_full", f"the queue is full: {self._n_bytes} bytes wait", 1.0)

    def _counted(self, receive: Receive, passing: Passing) -> Receive:
        async def receive_counted() -> Message:
            message = await receive()
            if n_bytes := len(message.get("body", b"")):
                self._check_bytes(passing.n_bytes + n_bytes, n_bytes)
                passing.n_bytes += n_bytes
                self._n_bytes += n_bytes
            return message

        return receive_counted

    def _tell(self, passing: Passing) -> None:
        """Count a request, and write its line into the log."""
        total_s = time.perf_counter() - passing.started
        status = passing.status or CLIENT_GONE
        if metrics := self._engine.metrics:
            metrics.count_request(status)
            metrics.duration.observe(total_s)
        extra: dict[str, Any] = {
            "request_id": passing.request_id,
            "queue_depth": self._engine.queue_depth,
            "timings": {**passing.timings, "total_s": round(total_s, 6)},
        }
        if passing.trace_id:
            extra["trace_id"] = passing.trace_id
        logger.info("%d in %.1f ms", status, 1000 * total_s, extra=extra)


def not_found(request: Any, exc: HTTPException) -> None:
    """Take over what the router refuses: unknown paths and methods."""
    code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "refused")
    raise RefusedError(exc.status_code, code, f"{request.method} {request.url.path}: {exc.detail}; see /docs")


async def until_gone(receive: Receive, work: Any) -> Any:
    """Return what `work` comes to; cancel it as soon as the client has gone.

    Args:
        receive: of a request whose body has been read: all that can come is its end.
        work: a coroutine.

    Raises:
        ClientDisconnect: nobody waits for the answer.
        Exception: what `work` raises.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _begin(headers: Headers) -> Passing:
    given = headers.get("x-request-id", "")
    trace = _TRACEPARENT.fullmatch(headers.get("traceparent", "").strip())
    return Passing(given if _REQUEST_ID.fullmatch(given) else uuid4().hex, trace[1] if trace else None)


async def _send_refusal(send: Send, refusal: RefusedError, request_id: str) -> None:
    body = to_json(error_body(refusal.code, refusal.message, request_id))
    headers = {"content-type": JSON, "content-length": str(len(body)), **refusal.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
