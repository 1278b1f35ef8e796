"""Processes and sockets: uvicorn in one process for each device, signals, and the end of them all."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from spark_embed.errors import ConfigError, ModelError, SparkEmbedError, one_line
from spark_embed.inference.malloc import keep_freed_memory
from spark_embed.service.realtime.app import make_app
from spark_embed.service.realtime.connections import (
    KEEP_ALIVE_S,
    Connection,
    end_late,
    raise_limit_of_connections,
)
from spark_embed.service.realtime.engine import Engine
from spark_embed.service.realtime.metrics import PROCESSES_FOLDER
from spark_embed.service.realtime.settings import Settings

logger = logging.getLogger(__name__)

PROCESS = "SPARK_EMBED_SERVICE_PROCESS"
"""The variable that tells one of several processes its number, and so its device, and the port."""

_NUMBERED = ("auto", "gpu", "cuda")

_BACKLOG = 2048
_LOOK_EVERY_S = 1.0


def serve(settings: Settings, api_key: str | None) -> None:
    """Answer until a signal comes: SIGTERM and SIGINT let all that is accepted be answered first.

    Ends the process itself: the interpreter would wait for threads that may never end.

    Raises:
        ConfigError: the address cannot be used.
        SparkEmbedError: one of several processes has failed.
    """
    given = os.environ.get(PROCESS)
    if settings.n_processes > 1 and given is None:
        _serve_processes(settings)
        return
    if given is None:
        listening = _listen(settings, settings.service.port)
    else:
        number, port = map(int, given.split())
        listening = _listen(settings, port, is_shared=True)
        model = settings.model.model_copy(update={"device": f"{settings.model.device}:{number}"})
        if settings.model.device in _NUMBERED:
            settings = settings.model_copy(update={"model": model})
    os._exit(_answer(settings, api_key, listening))


def _answer(settings: Settings, api_key: str | None, listening: socket.socket) -> int:
    """Answer in this process until its end; returns the exit code."""
    keep_freed_memory()  # as a batch job's worker does: each image else pays for fresh pages
    engine = Engine(settings)
    ended: list[BaseException] = []

    def on_end(exc: BaseException | None) -> None:
        ended.append(exc or ModelError("the engine has ended"))
        server.should_exit = True

    server = _Server(
        uvicorn.Config(
            make_app(engine, api_key, on_end),
            http=Connection,
            ws="none",
            loop="uvloop",
            log_config=None,  # the settings' own
            access_log=False,
            server_header=False,
            proxy_headers=False,  # else whoever asks could say that he is somebody else
            backlog=_BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(settings.server.drain_timeout_s),
        ),
        engine,
    )
    Connection.max_connections = raise_limit_of_connections()
    host, port = listening.getsockname()[:2]
    logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    server.run(sockets=[listening])
    code = 0
    if ended:
        is_ours = isinstance(ended[0], SparkEmbedError)
        logger.error("%s", one_line(ended[0]), exc_info=None if is_ours else ended[0])
        code = getattr(ended[0], "exit_code", 1)
    logging.shutdown()
    return code


class _Server(uvicorn.Server):
    """uvicorn's, which ends a signal's process with code 0, and says that it is not ready meanwhile.

    It looks at its connections every second, for such as do not go on; and for its parent, if it is one of
    several processes.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine
        self._parent = os.getppid() if PROCESS in os.environ else None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._looking = asyncio.create_task(self._look_at_connections())

    async def _look_at_connections(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            connections = list(self.server_state.connections)
            end_late(connections)
            if self._parent not in (None, os.getppid()):  # it was killed, and nobody else ends this one
                self.should_exit = self._engine.is_draining = True
            if self.should_exit:  # such as were being accepted when uvicorn told all others
                for connection in connections:
                    connection.shutdown()

    def _stop(self, number: int, frame: object) -> None:
        if self._engine.live is None:
            logger.info("stopped while the model was being loaded")
            os._exit(0)  # nothing is accepted yet, and a thread that loads cannot be stopped
        self.force_exit = self.should_exit and number == signal.SIGINT  # asked twice by hand
        self.should_exit = self._engine.is_draining = True


def _listen(settings: Settings, port: int, *, is_shared: bool = False) -> socket.socket:
    host = settings.service.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=is_shared)
    except (OSError, OverflowError) as exc:
        raise ConfigError(f"--host {host} --port {port}: {one_line(exc)}; choose another port") from exc


def _serve_processes(settings: Settings) -> None:
    """Start a process for each device, all on one port; the first that ends, ends all.

    Each has a socket of its own, among which the kernel shares out connections: of one socket, the first
    process that wakes up would take all that wait.

    Raises:
        ConfigError: the address, or the device, cannot be used by several.
        SparkEmbedError: one of them has failed.
    """
    if settings.model.device not in (*_NUMBERED, "cpu"):
        raise ConfigError(
            f"model.device {settings.model.device}: {settings.n_processes} processes would share it; say "
            "auto, gpu or cuda, and each takes its own"
        )
    with _listen(settings, settings.service.port) as trial:  # else another service could share it unnoticed
        port = trial.getsockname()[1]
    processes: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def stop(number: int, frame: object = None) -> None:
        asked.append(number)
        tell(number)

    def tell(number: int) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    for handled in (signal.SIGTERM, signal.SIGINT):
        signal.signal(handled, stop)
    with tempfile.TemporaryDirectory(prefix="spark_embed-metrics-") as folder:
        for number in range(settings.n_processes):
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "spark_embed", *sys.argv[1:]],
                    env={**os.environ, PROCESS: f"{number} {port}", PROCESSES_FOLDER: folder},
                    start_new_session=True,  # Ctrl-C of a terminal reaches this process alone, once
                )
            )
        while not asked and all(process.poll() is None for process in processes):
            time.sleep(_LOOK_EVERY_S)
        tell(signal.SIGTERM)  # also one that began when the signal was there
        codes = [process.wait() for process in processes]
    accepted = {0, -signal.SIGTERM} if asked else {0}  # by the signal itself, before it could be handled
    if failed := [code for code in codes if code not in accepted]:
        raise SparkEmbedError(f"one of {settings.n_processes} processes ended with code {failed[0]}")
