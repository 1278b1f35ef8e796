"""Processes and sockets: uvicorn in one process for each device, signals, and the end of them all."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from spark_embed.errors import ConfigError, ModelError, SparkEmbedError, one_line
from spark_embed.inference.malloc import keep_freed_memory
from spark_embed.service.realtime.app import make_app
from spark_embed.service.realtime.engine import Engine
from spark_embed.service.realtime.metrics import PROCESSES_FOLDER
from spark_embed.service.realtime.settings import Settings

logger = logging.getLogger(__name__)

PROCESS = "SPARK_EMBED_SERVICE_PROCESS"
"""The variable that tells one of several processes its number, and so its device."""

_BACKLOG = 2048
_KEEP_ALIVE_S = 75  # longer than the load balancers in front wait (60 s), or they meet a closed connection


def serve(settings: Settings, api_key: str | None) -> None:
    """Answer until a signal comes: SIGTERM and SIGINT let all that is accepted be answered first.

    Raises:
        ConfigError: the address cannot be used.
        SparkEmbedError: the model cannot be used, or has stopped working.
    """
    is_one_of_several = PROCESS in os.environ
    if settings.n_processes > 1 and not is_one_of_several:
        _serve_processes(settings)
        return
    listening = _listen(settings, is_shared=is_one_of_several)
    if settings.n_processes > 1 and settings.model.device == "auto":
        device = f"auto:{os.environ[PROCESS]}"
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"device": device})})
    keep_freed_memory()  # as a batch job's worker does: each image else pays for fresh pages
    engine = Engine(settings)
    ended: list[BaseException] = []

    def on_end(exc: BaseException | None) -> None:
        ended.append(exc or ModelError("the engine has ended"))
        server.should_exit = True

    server = _Server(
        uvicorn.Config(
            make_app(engine, api_key, on_end),
            http="httptools",
            loop="uvloop",
            log_config=None,  # the settings' own
            access_log=False,
            server_header=False,
            proxy_headers=False,  # else whoever asks could say that he is somebody else
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=round(settings.server.drain_timeout_s),
        ),
        engine,
    )
    host, port = listening.getsockname()[:2]
    logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    server.run(sockets=[listening])
    if engine.is_hung:
        logger.error("%s", ended[0])
        logging.shutdown()
        os._exit(ModelError.exit_code)  # else the interpreter would wait for the thread
    if ended:
        raise ended[0]


class _Server(uvicorn.Server):
    """uvicorn's, which ends a signal's process with code 0, and says that it is not ready meanwhile."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: object) -> None:
        if self._engine.live is None:
            logger.info("stopped while the model was being loaded")
            os._exit(0)  # nothing is accepted yet, and a thread that loads cannot be stopped
        self.force_exit = self.should_exit and number == signal.SIGINT  # asked twice by hand
        self.should_exit = self._engine.is_draining = True


def _listen(settings: Settings, *, is_shared: bool) -> socket.socket:
    host, port = settings.service.host, settings.service.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(
            (host, port),
            family=family,
            backlog=_BACKLOG,
            reuse_port=is_shared and hasattr(socket, "SO_REUSEPORT"),
        )
    except (OSError, OverflowError) as exc:
        raise ConfigError(f"--host {host} --port {port}: {one_line(exc)}; choose another port") from exc


def _serve_processes(settings: Settings) -> None:
    """Start a process for each device, all on one port; the first that ends, ends all.

    Raises:
        SparkEmbedError: one of them has failed.
    """
    if settings.service.port == 0:
        raise ConfigError("--port 0: several processes share a port, so it must be named")
    processes: list[subprocess.Popen[bytes]] = []

    def stop(number: int = signal.SIGTERM, frame: object = None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    with tempfile.TemporaryDirectory(prefix="spark_embed-metrics-") as folder:
        for number in range(settings.n_processes):
            environ = {**os.environ, PROCESS: str(number), PROCESSES_FOLDER: folder}
            command = [sys.executable, "-m", "spark_embed", *sys.argv[1:]]
            processes.append(subprocess.Popen(command, env=environ))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        stop()
        codes = [process.wait() for process in processes]
    if failed := [code for code in codes if code]:
        raise SparkEmbedError(f"one of {settings.n_processes} processes ended with code {failed[0]}")
