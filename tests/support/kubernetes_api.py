"""A Kubernetes API server that is none: it keeps what it is sent, on the loopback, and starts nothing."""

import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_NOT_FOUND = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
_KINDS = {"pods": "PodList", "services": "ServiceList", "configmaps": "ConfigMapList"}
_PATH = re.compile(r"/api/v1/namespaces/(?P<namespace>[\w-]+)/(?P<kind>\w+)(?:/(?P<name>[\w.-]+))?(?:\?.*)?")


class FakeKubernetes:
    """Runs from `with` to its end, without TLS and without a key: Spark takes `k8s://http://...`.

    Pods stay Pending, for nobody runs them. Watches are open and silent.

    Attributes:
        objects: what is there, by kind (pods, ...) and name.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self._over = threading.Event()
        self._changed = threading.Condition()
        fake = self

        class Handler(_Handler):
            kubernetes = fake

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakeKubernetes":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Return the objects of a kind, in the order in which they came."""
        return [one for (known, _), one in self.objects.items() if known == kind]

    def await_pods(self, role: str, number: int, within_s: float) -> list[dict[str, Any]]:
        """Wait until there are so many pods of a Spark role; return them.

        Raises:
            TimeoutError: there are not.
        """

        def found() -> list[dict[str, Any]]:
            return [pod for pod in self.of_kind("pods") if pod["metadata"]["labels"]["spark-role"] == role]

        with self._changed:
            if not self._changed.wait_for(lambda: len(found()) >= number, within_s):
                raise TimeoutError(f"{len(found())} pods of role {role} after {within_s} s")
            return found()

    def put(self, kind: str, name: str, sent: Mapping[str, Any], namespace: str) -> dict[str, Any]:
        """Keep an object as the server would give it back."""
        facts = {"uid": f"uid-{name}", "namespace": namespace, "resourceVersion": "1"}
        kept = {**sent, "metadata": {**sent["metadata"], **facts}, "status": {"phase": "Pending"}}
        with self._changed:
            self.objects[kind, name] = dict(sent)
            self._changed.notify_all()
        return kept


class _Handler(BaseHTTPRequestHandler):
    kubernetes: FakeKubernetes
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        place = self._place()
        if "watch=true" in self.path:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Connection", "close")
            self.end_headers()
            self.kubernetes._over.wait()
        elif place["name"]:
            known = self.kubernetes.objects.get((place["kind"], place["name"]))
            if known is None:
                self._answer(404, _NOT_FOUND)
            else:
                self._answer(
                    200, self.kubernetes.put(place["kind"], place["name"], known, place["namespace"])
                )
        else:
            self._answer(
                200,
                {
                    "kind": _KINDS.get(place["kind"], "List"),
                    "apiVersion": "v1",
                    "metadata": {"resourceVersion": "1"},
                    "items": [],
                },
            )

    def do_POST(self) -> None:
        place, sent = self._place(), json.loads(self._body())
        name = place["name"] or sent["metadata"]["name"]
        self._answer(201, self.kubernetes.put(place["kind"], name, sent, place["namespace"]))

    do_PATCH = do_POST  # noqa: N815  http.server calls it so

    def do_DELETE(self) -> None:
        self._body()
        self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _place(self) -> dict[str, str]:
        found = _PATH.fullmatch(self.path)
        assert found, self.path
        return found.groupdict()

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, body: Mapping[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
