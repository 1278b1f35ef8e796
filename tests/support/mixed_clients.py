"""Clients of the service as they come: good, broken, huge, slow, and such as go away."""

import asyncio
import base64
import json
import random
from collections import Counter
from urllib.parse import urlsplit

import numpy as np

PATIENCE_S = 120
_LIMIT = 1 << 22
_END = b"--b--\r\n"

KINDS = {  # how often
    "raw": 8,
    "float32": 5,
    "form": 5,
    "several": 2,
    "base64": 4,
    "chunked": 2,
    "slow_head": 1,
    "slow_body": 1,
    "broken": 3,
    "broken_form": 1,
    "wrong_type": 1,
    "huge": 1,
    "huge_chunked": 1,
    "gone_in_head": 1,
    "gone_in_body": 2,
    "gone_waiting": 2,
}
STATUS = {"broken": 422, "broken_form": 422, "wrong_type": 415, "huge": 413, "huge_chunked": 413}
GONE = {"gone_in_head", "gone_in_body", "gone_waiting"}


class Crowd:
    """Clients that ask all at once; each answer is compared with what it must be.

    Attributes:
        ids: of the requests of each kind.
        codes: of the refusals that came.
        closest: the least cosine of an answer with its image's vector.
        furthest: the largest difference of a value.
    """

    def __init__(self, url: str, images: list[bytes], vectors: np.ndarray, max_body_bytes: int) -> None:
        self._address = urlsplit(url)
        self._images = images
        self._vectors = vectors
        self._huge = bytes(max_body_bytes + 100_000)
        self._random = random.Random(0)
        self.ids: dict[str, list[str]] = {kind: [] for kind in KINDS}
        self.codes: Counter[str] = Counter()
        self.closest, self.furthest = 1.0, 0.0

    async def ask(self, n_requests: int, n_clients: int) -> None:
        """Send so many requests of all kinds, by so many clients at a time."""
        kinds = [kind for kind, often in KINDS.items() for _ in range(often)]
        kinds *= -(-n_requests // len(kinds))
        self._random.shuffle(kinds)
        waiting = iter(kinds[:n_requests])
        async with asyncio.timeout(PATIENCE_S + n_requests / 20), asyncio.TaskGroup() as group:
            for _ in range(n_clients):
                group.create_task(self._client(waiting))

    async def _client(self, waiting) -> None:
        line = None
        for kind in waiting:
            if line is None:
                line = await asyncio.open_connection(self._address.hostname, self._address.port, limit=_LIMIT)
            if kind in GONE or await self._ask_one(kind, *line):
                if kind in GONE:
                    await getattr(self, f"_{kind}")(*line)
                line[1].close()
                line = None
        if line is not None:
            line[1].write_eof()
            assert await line[0].read() == b"", "more answers than requests"
            line[1].close()

    async def _ask_one(self, kind: str, reader, writer) -> bool:
        """Ask, and check the answer; returns whether the connection has ended."""
        rows = [self._random.randrange(len(self._images)) for _ in range(3 if kind == "several" else 1)]
        head, body, pieces = self._request(kind, rows)
        request_id = self._new_id(kind)
        head += f"x-request-id: {request_id}\r\n\r\n".encode()
        if kind == "slow_head":
            await _trickle(writer, head, 20)
            writer.write(body)
        else:
            writer.write(head)
            await _trickle(writer, body, pieces)
        await writer.drain()
        status, headers, answer = await read_answer(reader)
        assert headers["x-request-id"] == request_id, "the answer of another request"
        assert status == STATUS.get(kind, 200), (kind, status, answer)
        if status == 200:
            self._check(kind, rows, answer)
        else:
            error = json.loads(answer)["error"]
            assert error["request_id"] == request_id
            self.codes[error["code"]] += 1
        return headers.get("connection") == "close"

    def _request(self, kind: str, rows: list[int]) -> tuple[bytes, bytes, int]:
        """Return a head, a body and in how many pieces the body is sent."""
        image = self._images[rows[0]]
        if kind == "broken":
            image = image[: len(image) // 3]
        more = b""
        if kind in ("form", "several", "broken_form"):
            body = b"".join(map(self._part, rows))
            body += self._part(rows[0], broken=True) if kind == "several" else b""
            body += b"" if kind == "broken_form" else _END
            type_ = b"multipart/form-data; boundary=b"
        elif kind == "base64":
            body, type_ = (
                json.dumps({"image": base64.b64encode(image).decode()}).encode(),
                b"application/json",
            )
        elif kind.startswith("huge"):
            body, type_ = self._huge, b"image/jpeg"
        else:
            body, type_ = image, b"text/plain" if kind == "wrong_type" else b"image/jpeg"
        if kind == "float32":
            more = b"accept: application/octet-stream\r\n"
        if kind.endswith("chunked"):
            length = b"transfer-encoding: chunked\r\n"
            step = 1 + len(body) // 5
            parts = [body[at : at + step] for at in range(0, len(body), step)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])
        else:
            length = b"content-length: %d\r\n" % len(body)
        head = b"POST /infer HTTP/1.1\r\nhost: here\r\ncontent-type: %b\r\n%b%b" % (type_, length, more)
        return head, body, 20 if kind == "slow_body" else 1

    def _part(self, row: int, broken: bool = False) -> bytes:
        head = b'--b\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n'
        data = self._images[row]
        return head + (data[: len(data) // 3] if broken else data) + b"\r\n"

    def _check(self, kind: str, rows: list[int], answer: bytes) -> None:
        output = [np.frombuffer(answer, "<f4")] if kind == "float32" else json.loads(answer)["output"]
        if kind == "several":
            self.codes[output.pop()["error"]["code"]] += 1
        assert len(output) == len(rows)
        for row, vector in zip(rows, np.asarray(output, np.float64), strict=True):
            expected = self._vectors[row]
            cosine = vector @ expected / np.linalg.norm(vector) / np.linalg.norm(expected)
            self.closest = min(self.closest, cosine)
            self.furthest = max(self.furthest, np.abs(vector - expected).max())
        assert self.closest >= 0.999999, "the vector of another image"
        assert self.furthest <= 1e-5

    def _new_id(self, kind: str) -> str:
        self.ids[kind].append(f"{kind}-{len(self.ids[kind])}")
        return self.ids[kind][-1]

    def _head(self, kind: str, data: bytes) -> bytes:
        return (
            f"POST /infer HTTP/1.1\r\ncontent-type: image/jpeg\r\ncontent-length: {len(data)}\r\n"
            f"x-request-id: {self._new_id(kind)}\r\n\r\n"
        ).encode()

    async def _gone_in_head(self, reader, writer) -> None:
        writer.write(self._head("gone_in_head", b"a")[:-10])
        await writer.drain()

    async def _gone_in_body(self, reader, writer) -> None:
        data = self._images[0]
        writer.write(self._head("gone_in_body", data) + data[: len(data) // 2])
        await writer.drain()

    async def _gone_waiting(self, reader, writer) -> None:
        writer.write(self._head("gone_waiting", self._images[0]) + self._images[0])
        await writer.drain()


async def read_answer(reader) -> tuple[int, dict[str, str], bytes]:
    """Return the status, headers and body of the next answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:-2])
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def _trickle(writer, data: bytes, n_pieces: int) -> None:
    step = 1 + len(data) // n_pieces
    for at in range(0, len(data), step):
        writer.write(data[at : at + step])
        if n_pieces > 1:
            await writer.drain()
            await asyncio.sleep(0.01)
