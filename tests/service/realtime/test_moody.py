"""A model that is slow, fails or hangs: what its requests are answered, and what becomes of the process."""

import signal
import socket
import threading

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.image_files import encode, noise_image
from support.live_service import live_service
from support.model_folders import class_with, write_folder
from support.waiting import wait_until

MOODY = """
import os, time
held = os.path.join(self.folder, "..", "held")
if os.path.exists(held):
    with open(held, "w") as file:
        file.write("by a forward pass")
while os.path.exists(held):
    time.sleep(0.002)
if any(row["text"] == "fail" for row in batch):
    raise ValueError("moody")
return [[len(batch), float(row["text"]) if row["text"].isdigit() else -1] for row in batch]
"""


class Held:
    """While it exists, a forward pass does not end; the first that it holds writes to it."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.path.touch()

    def __exit__(self, *_):
        self.path.unlink()

    def wait(self):
        wait_until(lambda: self.path.stat().st_size, "a forward pass")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    metadata = {"type": "embedding", "text_column": "caption"}
    folder = tmp_path_factory.mktemp("moody") / "model"
    return write_folder(
        folder, class_with(warmup="pass", encode=MOODY.strip()), metadata=metadata, batch_size=2
    )


@pytest.fixture(scope="module")
def held(folder):
    return Held(folder.parent / "held")


@pytest.fixture(scope="module")
def service(folder):
    config = folder.parent / "service.yaml"
    config.write_text("server: {max_queue_size: 3, request_timeout_s: 30}\nmodel: {normalize: false}\n")
    with live_service("--model_directory", folder, "--config", config) as service:
        yield service
        assert service.end() == 0


@pytest.fixture
def client(service):
    with service.client() as client:
        yield client


IMAGE = encode(noise_image())


def ask(client, text):
    return client.post("/infer", files={"image": IMAGE}, data={"text": text})


class Asking(threading.Thread):
    """A request on its way."""

    def __init__(self, service, text):
        super().__init__()
        self.service, self.text, self.answer = service, text, None
        self.start()

    def run(self):
        with self.service.client() as client:
            self.answer = ask(client, self.text)

    def answered(self):
        self.join(60)
        return self.answer.status_code

    def output(self):
        self.join(60)
        assert self.answer.status_code == 200, self.answer.text
        return self.answer.json()["output"][0]


def half_a_request(service) -> bytes:
    """Return what is answered to a body that never ends."""
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        head = (
            "POST /infer HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 100\r\n\r\nhalf"
        )
        connection.sendall(head.encode())
        return connection.recv(1 << 16)


def depth(client) -> float:
    text = client.get("/metrics").text
    (family,) = [one for one in text_string_to_metric_families(text) if one.name == "inference_queue_depth"]
    return family.samples[0].value


def test_a_text_goes_with_its_image(client):
    answer = client.post("/infer", files=[("image", IMAGE)] * 3, data={"text": ["7", "8", "9"]})
    assert [row[1] for row in answer.json()["output"]] == [7, 8, 9]
    assert ask(client, "5").json()["output"] == [[1, 5]]


def test_a_full_queue_says_so_at_once_and_no_accepted_request_is_lost(service, client, held):
    with held:
        first = Asking(service, "0")
        held.wait()
        waiting = []
        for number in (1, 2, 3):
            waiting.append(Asking(service, str(number)))
            wait_until(lambda number=number: depth(client) >= number, "in the queue")
        refused = ask(client, "4")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/ready").status_code == 503
        assert client.get("/health").status_code == 200
    assert first.output()[1] == 0
    assert [one.output()[1] for one in waiting] == [1, 2, 3]
    assert client.get("/ready").status_code == 200
    assert "inference_queue_rejections_total{" in client.get("/metrics").text


def test_who_has_gone_leaves_the_batch(service, client, held):
    with held:
        first = Asking(service, "0")
        held.wait()
        with service.client() as gone, pytest.raises(Exception, match="timed out"):
            gone.post("/infer", files={"image": IMAGE}, data={"text": "6"}, timeout=0.3)
        wait_until(lambda: depth(client) == 0, "out of the queue")
    assert first.output()[1] == 0
    wait_until(lambda: any("499 in" in line["message"] for line in service.log), "its line in the log")


def test_what_the_model_cannot_do_fails_alone(client):
    failed = ask(client, "fail")
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "model_error")
    answer = client.post("/infer", files=[("image", IMAGE)] * 2, data={"text": ["3", "fail"]}).json()
    assert answer["output"][0] == [1, 3]
    assert answer["output"][1]["error"]["code"] == "model_error"
    assert client.get("/ready").status_code == 200


def test_a_request_and_a_forward_pass_have_so_much_time(folder, held):
    config = folder.parent / "impatient.yaml"
    config.write_text("server: {request_timeout_s: 2, predict_timeout_s: 3}\n")
    with live_service("--model_directory", folder, "--config", config) as service:
        assert half_a_request(service).startswith(b"HTTP/1.1 504 ")
        with held:
            first = Asking(service, "1")
            held.wait()
            assert first.answered() == 504
            waiting = [Asking(service, str(number)) for number in range(5)]
            assert {one.answered() for one in waiting} == {500}
            assert service.process.wait(60) == 3
        assert any("has not ended within 3 s" in line["message"] for line in service.log)


def test_sigterm_lets_what_is_accepted_be_answered(folder, held):
    with (
        live_service("--model_directory", folder, "--normalize", "false") as service,
        service.client() as client,
    ):
        with held:
            asked = [Asking(service, str(number)) for number in range(5)]
            wait_until(lambda: depth(client) >= 3, "asked")
            service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: any("Shutting down" in line["message"] for line in service.log), "the signal")
        assert sorted(one.output()[1] for one in asked) == [0, 1, 2, 3, 4]
        assert service.process.wait(60) == 0
