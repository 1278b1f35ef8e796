"""Stores and proxies that answer with something else than a range that was asked for."""

import socket
import threading

import pytest

from spark_embed.storage.s3.client import client_for
from spark_embed.storage.s3.errors import S3UnsupportedError
from spark_embed.storage.s3.file import S3File

pytestmark = pytest.mark.usefixtures("short_s3_pauses")


class OddServer:
    """Answers a HEAD as a store does, and each GET with the next of the answers that it is given.

    An answer is (head without the status line's end, pieces of the body); None among them waits.
    """

    def __init__(self, *answers) -> None:
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._waits = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._waits.set()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection) -> None:
        with connection:
            asked = connection.recv(1 << 16).decode()
            if asked.startswith("HEAD"):
                connection.sendall(
                    b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: "1"\r\nConnection: close\r\n\r\n'
                )
                return
            head, *pieces = self._answers.pop(0)
            connection.sendall(f'HTTP/1.1 {head}\r\nETag: "1"\r\nConnection: close\r\n\r\n'.encode())
            for piece in pieces:
                if piece is None:
                    self._waits.wait()
                else:
                    connection.sendall(piece)


@pytest.fixture
def odd_server(s3_server, monkeypatch):
    servers = []

    def make(*answers) -> str:
        servers.append(OddServer(*answers))
        s3_server.seen_through(servers[-1].endpoint).set_environment(monkeypatch)
        return "s3://bucket/a"

    yield make
    for server in servers:
        server.close()


RANGE = "206 Partial Content\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/10"


def test_answers_that_stand_still_in_the_middle_are_asked_for_again(odd_server, monkeypatch):
    path = odd_server((RANGE, b"0123", None), (RANGE, b"0123456789"))
    client = client_for("bucket")
    monkeypatch.setattr(client._endpoint.http_session, "_timeout", 0.3)
    client._endpoint.http_session._manager.connection_pool_kw["timeout"] = 0.3
    assert S3File(path).read() == b"0123456789"


def test_answers_that_end_too_soon_are_asked_for_again(odd_server):
    rest = "206 Partial Content\r\nContent-Range: bytes 4-9/10"
    path = odd_server((RANGE, b"0123"), (rest, b""), (rest, b"456789"))
    assert S3File(path).read() == b"0123456789"


def test_answers_of_something_else_than_was_asked_for_are_an_error(odd_server):
    for head in ("200 OK\r\nContent-Length: 10", RANGE.replace("0-9", "1-10")):
        with pytest.raises(S3UnsupportedError, match="range"):
            S3File(odd_server((head, b"0123456789"))).read()
