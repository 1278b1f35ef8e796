"""Processes and sockets: uvicorn in one process for each device, signals, and the end of them all."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

import uvicorn

from spark_embed.errors import ConfigError, ModelError, SparkEmbedError, one_line
from spark_embed.inference.malloc import keep_freed_memory
from spark_embed.service.realtime.app import make_app
from spark_embed.service.realtime.connections import Server, address_of, listen, make_config
from spark_embed.service.realtime.engine import Engine
from spark_embed.service.realtime.metrics import PROCESSES_FOLDER
from spark_embed.service.realtime.settings import Settings

logger = logging.getLogger(__name__)

PROCESS = "SPARK_EMBED_SERVICE_PROCESS"
"""The variable that tells one of several processes its number, and so its device, and the port."""

_NUMBERED = ("auto", "gpu", "cuda")

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
        listening = listen(settings.service.host, settings.service.port)
    else:
        number, port = map(int, given.split())
        listening = listen(settings.service.host, port, is_shared=True)
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

    app = make_app(engine, api_key, on_end)
    server = _Server(make_config(app, settings.server.drain_timeout_s), engine)
    logger.info("listening on %s", address_of(listening))
    server.run(sockets=[listening])
    code = 0
    if ended:
        is_ours = isinstance(ended[0], SparkEmbedError)
        logger.error("%s", one_line(ended[0]), exc_info=None if is_ours else ended[0])
        code = getattr(ended[0], "exit_code", 1)
    logging.shutdown()
    return code


class _Server(Server):
    """One that says that it is not ready while it ends; and looks for its parent, if it is one of several."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine
        self._parent = os.getppid() if PROCESS in os.environ else None

    def look(self) -> None:
        if self._parent not in (None, os.getppid()):  # it was killed, and nobody else ends this one
            self.should_exit = self._engine.is_draining = True

    def stop(self, number: int, frame: object) -> None:
        if self._engine.live is None:
            logger.info("stopped while the model was being loaded")
            os._exit(0)  # nothing is accepted yet, and a thread that loads cannot be stopped
        super().stop(number, frame)
        self._engine.is_draining = True


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
    with listen(
        settings.service.host, settings.service.port
    ) as trial:  # else another service could share it unnoticed
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
