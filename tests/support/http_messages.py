"""HTTP/1.1 messages as they come over a connection: their heads, and their bodies in pieces."""

import asyncio
from collections.abc import AsyncIterator
from functools import cached_property
from urllib.parse import unquote, urlsplit

PIECE_BYTES = 1 << 18
HEAD_BYTES = 1 << 20  # a limit for asyncio's readers

NO_BODY = (204, 304)


class Head:
    """The first lines of a request or of an answer, up to the empty one; header names in lower case."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.first, *self.lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = (line.partition(":") for line in self.lines)
        self.fields = {name.lower(): value.strip() for name, _, value in pairs}

    @property
    def method(self) -> str:
        return self.first.split(" ")[0]

    @property
    def target(self) -> str:
        return self.first.split(" ")[1]

    @property
    def status(self) -> int:
        return int(self.first.split(" ")[1])

    @cached_property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @cached_property
    def query(self) -> set[str]:
        """The names in the query, whether they have values or not."""
        return {part.partition("=")[0] for part in urlsplit(self.target).query.split("&")}

    @property
    def is_chunked(self) -> bool:
        return "chunked" in self.fields.get("transfer-encoding", "").lower()

    @property
    def n_bytes(self) -> int | None:
        """Length of the body; None where the head does not say it."""
        length = self.fields.get("content-length")
        return None if length is None else int(length)

    def changed(self, without: set[str], more: dict[str, str]) -> "Head":
        """Return it without some headers, and with more at its end."""
        lines = [line for line in self.lines if line.partition(":")[0].lower() not in without]
        lines += [f"{name}: {value}" for name, value in more.items()]
        return Head("\r\n".join([self.first, *lines, "", ""]).encode("latin-1"))


async def read_head(reader: asyncio.StreamReader) -> Head:
    """Read one.

    Raises:
        asyncio.IncompleteReadError: the other side has gone.
    """
    return Head(await reader.readuntil(b"\r\n\r\n"))


async def message_body(
    head: Head, reader: asyncio.StreamReader, asked: str | None = None
) -> AsyncIterator[bytes]:
    """Read what follows a head, in pieces.

    Args:
        asked: the method of the request, where this is an answer.
    """
    if asked and (asked == "HEAD" or head.status in NO_BODY):
        return
    if head.is_chunked:
        async for piece in _chunks(reader):
            yield piece
    elif asked and head.n_bytes is None:
        # It would end with the connection, and one that was cut would look whole. versitygw sends none.
        raise ValueError(f"an answer of unknown length cannot be relayed: {head.first}")
    else:
        async for piece in _exactly(head.n_bytes or 0, reader):
            yield piece


async def _exactly(n_bytes: int, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    left = n_bytes
    while left:
        piece = await reader.read(min(left, PIECE_BYTES))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        yield piece


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The chunks with their lengths, and the trailer: passed on, not decoded.

    The end comes with what is before it: a server that knows without it how much there is (aws-chunked) may
    answer and go before it is sent, and that answer would be lost in the failure to send.
    """
    held = b""
    while n_bytes := int((line := await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        held += line
        async for piece in _exactly(n_bytes + 2, reader):
            yield held
            held = piece
    while line != b"\r\n":
        held += line
        line = await reader.readuntil(b"\r\n")
    yield held + line
