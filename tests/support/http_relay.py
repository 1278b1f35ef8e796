"""What a proxy does with requests and answers: pass them on, in part too, answer itself, hang up."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from support.http_messages import HEAD_BYTES, Head, message_body, read_head

REST_WITHIN_S = 1  # of a body that the server has answered to before its end
HANG_UP_AT_ONCE = struct.pack("ii", 1, 0)  # for SO_LINGER: close() sends RST


class HangUpError(Exception):
    """The client's connection ends here."""


# What may end a connection of a client.
ENDS = OSError, asyncio.IncompleteReadError, asyncio.CancelledError, HangUpError


@dataclass
class Link:
    """A connection of a client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


async def pass_on(head: Head, link: Link, endpoint: str, cut: bool) -> None:
    """Pass on a request, over a connection of its own, and its answer or half of that.

    Raises:
        HangUpError: nobody knows where the client's next request begins, or the answer was cut.
    """
    to = urlsplit(endpoint)
    reader, writer = await asyncio.open_connection(to.hostname, to.port, limit=HEAD_BYTES)
    sending = asyncio.create_task(send(head, link.reader, writer))
    waits = "expect" in head.fields  # with its body, until it hears 100 Continue
    try:
        answer = await read_head(reader)
        while answer.status < 200:
            await link.say(answer.raw)
            waits = False
            answer = await read_head(reader)
        await give(answer, message_body(answer, reader, head.method), link, cut)
        if not waits:
            await asyncio.wait([sending], timeout=REST_WITHIN_S)
        if not sending.done():
            raise HangUpError
    finally:
        sending.cancel()
        writer.close()


async def send(head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on a request; ends the connection to the server where the client has gone."""
    try:
        writer.write(head.raw)
        async for piece in message_body(head, reader):
            writer.write(piece)
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        writer.transport.abort()


async def give(answer: Head, body: AsyncIterator[bytes], link: Link, cut: bool) -> None:
    """Pass on what the server answers, or half of it, but not that its own connection ends with that."""
    half = (answer.n_bytes or 0) // 2
    n_given = 0
    head = answer.changed({"connection"}, {}).raw
    async for piece in body:
        if cut:
            piece = piece[: half - n_given]
        await link.say(head + piece)
        head = b""
        n_given += len(piece)
        if cut and n_given >= half:
            raise HangUpError
    if cut:
        raise HangUpError
    await link.say(head)


async def refuse(head: Head, link: Link, status: int, reason: str, text: str) -> None:
    """Answer without asking the server."""
    waits = "expect" in head.fields  # for a word, before it sends its body
    if not waits:
        async for _ in message_body(head, link.reader):
            pass
    body = b"" if head.method == "HEAD" else text.encode()
    connection = "close" if waits else "keep-alive"
    lines = (
        f"Content-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: {connection}\r\n\r\n"
    )
    await link.say(f"HTTP/1.1 {status} {reason}\r\n{lines}".encode() + body)
    if waits:
        raise HangUpError


def reset(link: Link) -> None:
    """End a connection as a host does that has crashed."""
    link.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, HANG_UP_AT_ONCE)
    link.writer.transport.abort()
