"""A model hub on the loopback, with one model, that may want to be shown a token."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support.waiting import PATIENCE_S

MODEL = "org/clip"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = "model.safetensors"


class Hub(ThreadingHTTPServer):
    """The hub with `MODEL`. It gives the weights when `n_workers` have asked what they are.

    Args:
        files: of the model, by name.
        token: without it nothing is given; None: to anybody.
    """

    daemon_threads = True
    n_workers = 1

    def __init__(self, files: Mapping[str, bytes], token: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.token = files, token
        self.asked = Counter[tuple[str, str]]()
        self.are_all_here = threading.Event()

    def start(self) -> None:
        """Answer, until the `with` block ends."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        super().__exit__()

    def note(self, method: str, name: str) -> None:
        self.asked[method, name] += 1
        if self.asked["HEAD", WEIGHTS] >= self.n_workers:
            self.are_all_here.set()

    @property
    def address(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        token = self.server.token
        if token and self.headers["Authorization"] != f"Bearer {token}":
            return self.give(b"", 401)
        files = self.server.files
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        self.server.note(self.command, name)
        if path.startswith(f"/api/models/{MODEL}/tree/"):
            return self.give(
                json.dumps(
                    [{"type": "file", "path": n, "oid": "0" * 40, "size": len(d)} for n, d in files.items()]
                ).encode()
            )
        if path.startswith(f"/api/models/{MODEL}"):
            about = {"id": MODEL, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            return self.give(json.dumps(about).encode())
        if self.command == "GET" and name == WEIGHTS:
            self.server.are_all_here.wait(PATIENCE_S)
        return self.give(files.get(name, b""), 200 if name in files else 404)

    def give(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        fields = {
            "Content-Length": len(body),
            "ETag": f'"{hashlib.sha1(body).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
        }
        for name, value in fields.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
