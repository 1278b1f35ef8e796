"""One process for each device: one port, one set of metrics, one end."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from support.image_files import encode, noise_image
from support.live_service import LiveService, live_service
from support.mixed_clients import read_answer
from support.s3_server import free_port
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

IMAGE = encode(noise_image())
HEAD = "POST /infer HTTP/1.1\r\ncontent-type: image/jpeg\r\ncontent-length: {}\r\nx-request-id: {}\r\n\r\n"


@pytest.fixture
def argv(tiny_clip, tmp_path) -> list:
    config = tmp_path / "service.yaml"
    config.write_text(f"server: {{n_processes: 2}}\nmodel: {{model_directory: {tiny_clip}}}\n")
    return ["--config", config, "--port", free_port()]


def processes_of(service: LiveService) -> list[int]:
    pid = service.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lines_with(service: LiveService, words: str) -> list[dict]:
    return [line for line in service.log if words in line["message"]]


async def ask_until_refused(service: LiveService, n_clients: int, stop_after: int) -> list[str]:
    """Ask from new connections until there are none any more; send SIGTERM amid. Return what was answered."""
    answered: list[str] = []
    numbers = iter(range(1_000_000))
    host, port = service.url.removeprefix("http://").split(":")

    async def client():
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, int(port))
                for _ in range(3):
                    writer.write(HEAD.format(len(IMAGE), next(numbers)).encode() + IMAGE)
                    status, headers, _ = await read_answer(reader)
                    assert status == 200
                    answered.append(headers["x-request-id"])
                    if len(answered) == stop_after:
                        service.process.send_signal(signal.SIGTERM)
                writer.close()
            except ConnectionRefusedError:
                return
            except (ConnectionError, asyncio.IncompleteReadError):
                continue  # not accepted: the log knows nothing of it

    await asyncio.gather(*(client() for _ in range(n_clients)))
    return answered


def test_two_processes_are_one_service_and_sigterm_loses_nothing(argv):
    with live_service(*argv) as service:
        wait_until(lambda: len(lines_with(service, "ready: ")) == 2, "both are ready")
        for _ in range(20):
            with service.client() as client:  # each by another connection, which either may take
                answer = client.post("/infer", content=IMAGE, headers={"content-type": "image/jpeg"})
                assert answer.status_code == 200
        with service.client() as client:
            assert 'status="200"} 20.0' in client.get("/metrics").text
        answered = asyncio.run(ask_until_refused(service, n_clients=16, stop_after=200))
        assert service.end() == 0
    assert len(answered) >= 200
    told = [line["request_id"] for line in lines_with(service, "200 in")]
    assert sorted(told[20:]) == sorted(answered)
    assert {line["level"] for line in service.log} == {"INFO"}


def test_one_that_dies_ends_all(argv):
    service = LiveService(*argv)
    wait_until(lambda: len(processes_of(service)) == 2, "both have begun")
    one, other = processes_of(service)
    os.kill(one, signal.SIGKILL)
    assert service.end(0) == 1
    assert not Path(f"/proc/{other}").exists()
    assert lines_with(service, "one of 2 processes ended with code -9")


@pytest.mark.soak  # it takes two models more
def test_none_outlives_the_first(argv):
    with live_service(*argv) as service:
        children = processes_of(service)
        service.process.kill()
        wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "they end")


def test_the_port_of_another_service_is_not_shared(argv):
    with socket.create_server(("127.0.0.1", argv[-1]), reuse_port=True):
        service = LiveService(*argv)
        assert service.end(0) == 2
    assert "--port" in service.log[-1]["message"]
