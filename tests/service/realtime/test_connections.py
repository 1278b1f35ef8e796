"""Clients that do not go on: each connection ends by itself, and what is no request is refused as all is."""

import asyncio
import json
import resource
import socket
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import uvicorn
import uvloop

from spark_embed.service.realtime import connections, server
from spark_embed.service.realtime.connections import Connection
from spark_embed.service.realtime.gate import Gate
from spark_embed.service.realtime.settings import Settings

from support.waiting import PATIENCE_S

LONG = 1 << 20
GET = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Limits that a test does not wait long for."""
    monkeypatch.setattr(connections, "_HEAD_S", 0.2)
    monkeypatch.setattr(connections, "KEEP_ALIVE_S", 0.3)
    monkeypatch.setattr(connections, "_UNREAD_S", 0.2)
    monkeypatch.setattr(connections, "_LOOK_EVERY_S", 0.05)


class Serving:
    """The server of the service, with an application that says how long the body was."""

    def __init__(self, app=None, **options) -> None:
        self.seen: list[dict] = []
        self.large = b""
        config = uvicorn.Config(
            app or self.answer,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            **options,
        )
        self.engine = SimpleNamespace(is_draining=False)
        self.server = server._Server(config, self.engine)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    async def answer(self, scope, receive, send):
        """The ASGI application."""
        self.seen.append(scope)
        n_bytes, more = 0, not scope["path"].startswith("/refused")
        while more:
            message = await receive()
            n_bytes, more = n_bytes + len(message.get("body", b"")), message.get("more_body", False)
        body = self.large or str(n_bytes).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def ask(self, *parts: bytes):
        """Send parts, and return a reader and a writer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for part in parts:
            writer.write(part)
            await writer.drain()
        return reader, writer

    @property
    def n_connections(self) -> int:
        """Open ones."""
        return len(self.server.server_state.connections)


@asynccontextmanager
async def serve(*args, **options):
    serving = Serving(*args, **options)
    running = asyncio.create_task(serving.server.serve([serving.socket]))
    while not serving.server.started:
        await asyncio.sleep(0)
    yield serving
    serving.server.should_exit = True
    await asyncio.wait_for(running, PATIENCE_S)


def on_uvloop(test):
    """Run a test's coroutine in the event loop of the service."""

    def run_on_uvloop():
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.wait_for(test(), PATIENCE_S))

    return run_on_uvloop


def serving(test):
    """Run it with a server in the same loop."""

    @on_uvloop
    async def run():
        async with serve() as serving:
            await test(serving)

    return run


def refusal(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert f"x-request-id: {error['request_id']}".encode() in head
    assert b"connection: close" in head
    return int(head.split()[1]), error["code"]


@serving
async def test_a_head_that_does_not_end_is_refused_in_time(serving):
    reader, _ = await serving.ask(b"POST /infer HTTP/1.1\r\nhost: h")
    assert refusal(await reader.read()) == (408, "timeout")
    assert serving.n_connections == 0
    assert serving.seen == []


@serving
async def test_nor_does_one_that_trickles_have_longer(serving):
    _, writer = await serving.ask(b"POST /infer HTTP/1.1\r\nhost: ")
    await trickle(writer, b"h")
    assert serving.n_connections == 0
    assert serving.seen == []


async def trickle(writer, piece):
    while not writer.is_closing():
        writer.write(piece)
        await asyncio.sleep(0.02)
        try:
            await writer.drain()
        except ConnectionError:
            return


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /" + b"a" * LONG,
        b"GET / HTTP/1.1\r\nx: " + b"a" * LONG,
        b"GET / HTTP/1.1\r\n" + b"x: a\r\n" * LONG,
        b"\r\n" * LONG,
        b"POST /refused HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"x: a\r\n" * LONG,
    ],
    ids=["url", "header", "headers", "empty lines", "trailers"],
)
def test_an_endless_head_is_not_kept(endless):
    async def test(serving):
        reader, writer = await serving.ask()
        sending = asyncio.create_task(send(writer, endless))
        ended = await read_all(reader)
        assert ended is None or b" 431 " in ended
        await sending
        while serving.n_connections:
            await asyncio.sleep(0)

    async def send(writer, data):
        try:
            writer.write(data)
            await writer.drain()
        except ConnectionError:
            pass

    async def read_all(reader) -> bytes | None:
        try:
            return await reader.read()
        except ConnectionError:  # it still sends, and cannot read why not
            return None

    serving(test)()


@serving
async def test_what_stands_behind_a_body_is_no_header(serving):
    chunked = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx-api-key: b\r\n\r\n"
    reader, _ = await serving.ask(chunked, GET)
    for n_bytes in (b"2", b"0"):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await reader.readuntil(b"0\r\n\r\n") == b"1\r\n%b\r\n0\r\n\r\n" % n_bytes
    assert [dict(scope["headers"]) for scope in serving.seen] == [
        {b"transfer-encoding": b"chunked"},
        {b"host": b"here"},
    ]


@serving
async def test_an_answer_that_nobody_reads_does_not_hold_the_connection(serving):
    serving.large = b"x" * (64 << 20)
    _, writer = await serving.ask(GET)
    while not serving.seen:
        await asyncio.sleep(0)
    assert serving.n_connections == 1
    while serving.n_connections:
        await asyncio.sleep(0.01)
    writer.close()


@serving
async def test_the_rest_of_a_refused_body_is_not_waited_for(serving):
    reader, writer = await serving.ask(b"POST /refused HTTP/1.1\r\ncontent-length: 100000\r\n\r\n")
    trickling = asyncio.create_task(trickle(writer, b"x"))
    assert b" 200 " in await reader.readuntil(b"\r\n")
    await trickling
    while serving.n_connections:
        await asyncio.sleep(0.01)


@serving
async def test_what_is_no_http_is_refused_as_all_is(serving):
    reader, _ = await serving.ask(b"\x16\x03\x01 hello\r\n\r\n")
    assert refusal(await reader.read()) == (400, "invalid_http")


@serving
async def test_more_connections_than_there_may_be_are_refused(serving):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "max_connections", 2)
        held = [await serving.ask() for _ in range(2)]
        while serving.n_connections < 2:
            await asyncio.sleep(0)
        reader, _ = await serving.ask()
        assert refusal(await reader.read()) == (503, "too_many_connections")
        held[0][1].close()
        while serving.n_connections > 1:
            await asyncio.sleep(0)
        reader, _ = await serving.ask(GET)
        assert b" 200 " in await reader.readuntil(b"\r\n")


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "n_connections"),
    [
        (1024, 524_288, 4352, 4096),
        (1024, 2048, 2048, 1792),
        (65_536, 65_536, None, 4096),
        (-1, -1, None, 4096),
    ],
)
def test_as_many_connections_as_the_process_may_have_files(monkeypatch, soft, hard, raised, n_connections):
    said = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: said.append(limits))
    assert connections.raise_limit_of_connections() == n_connections
    assert said == ([(raised, hard)] if raised else [])


@on_uvloop
async def test_who_is_not_answered_while_there_is_time_to_drain_is_told_so():
    async def hang(scope, receive, send):
        await asyncio.Event().wait()

    engine = SimpleNamespace(settings=Settings(), metrics=None, is_draining=True)
    async with serve(Gate(hang, engine), timeout_graceful_shutdown=0) as serving:
        reader, _ = await serving.ask(b"GET /slow HTTP/1.1\r\nhost: here\r\n\r\n")
        while not serving.server.server_state.tasks:
            await asyncio.sleep(0)
    assert refusal(await reader.read()) == (503, "shutting_down")
