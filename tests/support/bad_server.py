"""A web server on the loopback address that misbehaves in every way that its paths name."""

import asyncio
import contextlib
import gzip
import io
import ssl
import threading
from collections import Counter
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from PIL import Image

BOMB = gzip.compress(bytes(50 << 20), 1)


def colour_of(number: int) -> tuple[int, int, int]:
    """The colour of the image with this number."""
    return number % 256, number // 256, 100


def image_bytes(number: int) -> bytes:
    """A small PNG whose colour tells its number."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour_of(number)).save(buffer, "PNG")
    return buffer.getvalue()


def answer(body: bytes = b"", status: int = 200, **headers: str) -> bytes:
    """One whole answer; a header that is given replaces the honest one."""
    fields = {"Content_Length": str(len(body)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items() if value)
    return f"HTTP/1.1 {status} x\r\n{lines}\r\n".encode() + body


@dataclass
class Ask:
    """One request: for `way/rest?query`."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    rest: str
    query: dict[str, list[str]]


class BadServer:
    """Runs on a thread from `with` to its end. `url("circle")` is a url of the way of misbehaving `circle`.

    Attributes:
        asked: requests by path.
        requests: their heads, in order.
        most_at_once: requests that were answered at the same time.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.asked: Counter[str] = Counter()
        self.requests: list[str] = []
        self.n_connections = 0
        self.most_at_once = 0
        self._n_now = 0
        self._n_open = 0
        self._changed = threading.Condition()

    def __enter__(self) -> "BadServer":
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return self

    def __exit__(self, *exc_info) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{path}"

    def wait_until_nobody_is_connected(self, timeout_s: float = 20) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._n_open == 0, timeout_s)

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _count(self, n_open: int) -> None:
        with self._changed:
            self._n_open += n_open
            self._changed.notify_all()

    async def _serve(self, reader, writer) -> None:
        self._count(1)
        self.n_connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    await self._answer(head, reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._count(-1)

    async def _answer(self, head: str, reader, writer) -> None:
        self.requests.append(head)
        parts = urlsplit(head.split()[1])
        self.asked[parts.path] += 1
        way, _, rest = parts.path.lstrip("/").partition("/")
        self._n_now += 1
        self.most_at_once = max(self.most_at_once, self._n_now)
        try:
            await getattr(self, f"_on_{way}")(Ask(reader, writer, unquote(rest), parse_qs(parts.query)))
            await writer.drain()
        finally:
            self._n_now -= 1

    async def _on_image(self, ask) -> None:
        ask.writer.write(answer(image_bytes(int(ask.rest))))

    async def _on_late(self, ask) -> None:
        await asyncio.sleep(float(ask.query["s"][0]))
        ask.writer.write(answer(image_bytes(int(ask.rest))))

    async def _on_padded(self, ask) -> None:
        ask.writer.write(answer(image_bytes(int(ask.rest)) + bytes(int(ask.query["n"][0]))))

    async def _on_echo(self, ask) -> None:
        ask.writer.write(answer(self.requests[-1].encode()))

    async def _on_status(self, ask) -> None:
        ask.writer.write(answer(b"" if ask.rest in ("204", "304") else b"<html>", int(ask.rest)))

    async def _on_redirect(self, ask) -> None:
        status, to = (ask.query.get(name, [""])[0] for name in ("status", "to"))
        ask.writer.write(answer(b"", int(status or 302), Location=to))

    async def _on_circle(self, ask) -> None:
        ask.writer.write(answer(b"", 301, Location=f"/circle/{int(ask.rest or 0) + 1}"))

    async def _on_dead(self, ask) -> None:
        await ask.reader.read()  # until the client goes

    async def _on_hangup(self, ask) -> None:
        raise ConnectionError

    async def _on_gibberish(self, ask) -> None:
        ask.writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    async def _on_trickled_head(self, ask) -> None:
        await self._trickle(ask.writer, b"HTTP/1.1 200 OK\r\nX-Long: ")

    async def _on_trickled_body(self, ask) -> None:
        await self._trickle(ask.writer, answer(Content_Length="1000000"))

    async def _trickle(self, writer, text: bytes) -> None:
        writer.write(text)
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def _on_too_short(self, ask) -> None:
        """Announces more than it has."""
        ask.writer.write(answer(image_bytes(1), Content_Length="100000"))
        raise ConnectionError

    async def _on_stalled(self, ask) -> None:
        """Announces more than it has, and stays."""
        ask.writer.write(answer(image_bytes(1), Content_Length="100000"))
        await ask.reader.read()  # until the client goes

    async def _on_too_long(self, ask) -> None:
        """Has more than it announces."""
        ask.writer.write(answer(image_bytes(1), Content_Length="40"))

    async def _on_endless(self, ask) -> None:
        ask.writer.write(answer(Content_Length="", Connection="close"))
        while True:
            ask.writer.write(bytes(1 << 16))
            await ask.writer.drain()

    async def _on_endless_chunks(self, ask) -> None:
        ask.writer.write(answer(Content_Length="", Transfer_Encoding="chunked"))
        while True:
            ask.writer.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
            await ask.writer.drain()

    async def _on_endless_head(self, ask) -> None:
        ask.writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            ask.writer.write(b"X-Again: yes\r\n" * 1000)
            await ask.writer.drain()

    async def _on_endless_hints(self, ask) -> None:
        while True:
            ask.writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100)
            await ask.writer.drain()
            await asyncio.sleep(0.01)

    async def _on_huge(self, ask) -> None:
        ask.writer.write(answer(Content_Length=str(1 << 40)))
        await ask.reader.read()  # until the client goes

    async def _on_bomb(self, ask) -> None:
        ask.writer.write(answer(BOMB, Content_Encoding="gzip"))

    async def _on_busy(self, ask) -> None:
        """429 the first time; fine from then on."""
        if sum(n for path, n in self.asked.items() if path.startswith("/busy/")) == 1:
            ask.writer.write(answer(b"", 429, Retry_After=ask.query["after"][0]))
        else:
            ask.writer.write(answer(image_bytes(int(ask.rest))))

    async def _on_flaky(self, ask) -> None:
        """500 twice, then fine."""
        n_asked = self.asked[f"/flaky/{ask.rest}"]
        ask.writer.write(answer(b"", 500) if n_asked <= 2 else answer(image_bytes(int(ask.rest))))
