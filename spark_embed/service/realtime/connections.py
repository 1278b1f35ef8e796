"""Connections of clients that do not go on: no head, an endless one, an answer that nobody reads.

uvicorn has none of these limits, so each such client would hold a connection, or memory, for ever. Knows
HTTP's framing, and nothing of what is asked; the time of a request itself is the gate's.
"""

from __future__ import annotations

import asyncio
import math
import resource
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import uvicorn
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from spark_embed.errors import ConfigError, one_line
from spark_embed.service.realtime.answers import JSON, to_json
from spark_embed.service.realtime.refusals import error_body

KEEP_ALIVE_S = 75  # longer than the load balancers in front wait (60 s), or they meet a closed connection

_HEAD_S = 10.0  # from the first byte of a request to the end of its head
_UNREAD_S = 30.0  # an answer that is stuck for so long is not read
_MAX_HEAD_BYTES = 64 << 10
_MAX_CONNECTIONS = 4096
_OTHER_FILES = 256  # that a process has open: libraries, weights
_BACKLOG = 2048
_LOOK_EVERY_S = 1.0


def raise_limit_of_connections() -> int:
    """Let the process have as many files open as it needs, and return how many connections it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return _MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(wanted, soft) - _OTHER_FILES


class Connection(HttpToolsProtocol):
    """uvicorn's, which must go on in time; refuses what is no request in the shape of every refusal."""

    max_connections = _MAX_CONNECTIONS
    _deadline = math.inf  # while no request is under way
    _unread_until = math.inf
    _is_in_head = False
    _n_unspent = 0  # bytes since the last that ended a head, or were a body's

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.time() + KEEP_ALIVE_S  # some load balancers connect ahead of a request
        if len(self.connections) > self.max_connections:
            self._refuse(503, "too_many_connections", "too many connections are open; try again", "1")

    @override
    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._n_unspent += len(data)
        super().data_received(data)
        if self._n_unspent > _MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, "head_too_large", f"the head has more than {_MAX_HEAD_BYTES} bytes")

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        if self._deadline != math.inf:
            self._deadline = self.loop.time() + _HEAD_S

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # behind the body there is none that is wanted
            super().on_header(name, value)

    @override
    def on_headers_complete(self) -> None:
        self._is_in_head, self._deadline, self._n_unspent = False, math.inf, 0
        super().on_headers_complete()

    @override
    def on_body(self, body: bytes) -> None:
        self._n_unspent = 0
        super().on_body(body)

    @override
    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._n_unspent = 0

    @override
    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # else it was that of an earlier one: clients may ask ahead
            self._deadline = self.loop.time() + KEEP_ALIVE_S

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_until = self.loop.time() + _UNREAD_S

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread_until = math.inf

    @override
    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "invalid_http", "this is no HTTP request")

    def end_if_late(self, now: float) -> None:
        """Close the connection if its client has not gone on in time."""
        is_late = now > self._deadline
        if now > self._unread_until or (is_late and self.transport.is_closing()):
            self.transport.abort()  # to close would wait until it has read all
        elif is_late and self._is_in_head:
            self._refuse(408, "timeout", f"the head was not here within {_HEAD_S:g} s")
        elif is_late:
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str, retry_after: str = "") -> None:
        request_id = uuid4().hex
        body = to_json(error_body(code, message, request_id))
        head = f"content-type: {JSON}\r\ncontent-length: {len(body)}\r\nx-request-id: {request_id}\r\n"
        head += f"retry-after: {retry_after}\r\n" if retry_after else ""
        self.transport.write(STATUS_LINE[status] + f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()


def end_late(connections: Iterable[object]) -> None:
    """Close the connections whose clients have not gone on in time."""
    now = asyncio.get_running_loop().time()
    for connection in list(connections):
        if isinstance(connection, Connection):
            connection.end_if_late(now)


def listen(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigError: it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=is_shared)
    except (OSError, OverflowError) as exc:
        raise ConfigError(f"--host {host} --port {port}: {one_line(exc)}; choose another port") from exc


def address_of(listening: socket.socket) -> str:
    """Return the url of a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def make_config(app: Any, drain_timeout_s: float) -> uvicorn.Config:
    """Return how uvicorn serves an application.

    Args:
        app: the ASGI application.
        drain_timeout_s: how long what is accepted may take after the signal.
    """
    Connection.max_connections = raise_limit_of_connections()
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        loop="uvloop",
        log_config=None,  # the program's own
        access_log=False,
        server_header=False,
        proxy_headers=False,  # else whoever asks could say that he is somebody else
        backlog=_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(drain_timeout_s),
    )


class Server(uvicorn.Server):
    """uvicorn's, which looks at its connections every second, and ends a signal's process with code 0."""

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._looking = asyncio.create_task(self._look_at_connections())

    def stop(self, number: int, frame: object) -> None:
        """End, as a signal asks for."""
        self.force_exit = self.should_exit and number == signal.SIGINT  # asked twice by hand
        self.should_exit = True

    def look(self) -> None:
        """Look every second whether to end."""

    async def _look_at_connections(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            connections = list(self.server_state.connections)
            end_late(connections)
            self.look()
            if self.should_exit:  # such as were being accepted when uvicorn told all others
                for connection in connections:
                    connection.shutdown()
