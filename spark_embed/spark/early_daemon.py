"""A worker daemon that imports torch while the JVM is still starting; knows no session.

Spark starts its daemon when the first task needs one, seconds after the command began, and importing torch
and transformers takes as long again. On one machine the driver can begin earlier: it starts a process
that does the imports and waits. The daemon that Spark then starts hands its standard streams and environment
over to that process and stays only as long as it lives.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache

logger = logging.getLogger(__name__)

ADDRESS = "EARLY_WORKER_DAEMON"
"""Environment variable of the daemon: the path of the socket at which the early one waits; empty for none.

Not SPARK_EMBED_...: that is how options begin.
"""

# Where one of these is set, somebody else has said how Spark is to run: spark-submit, or the site's files.
_CONFIGURED_BY = ("PYSPARK_GATEWAY_PORT", "PYSPARK_SUBMIT_ARGS", "SPARK_CONF_DIR")

_MAX_MESSAGE_BYTES = 1 << 20


def is_spark_configured() -> bool:
    """Say whether Spark's master and settings come from elsewhere than this project."""
    return any(name in os.environ for name in _CONFIGURED_BY)


def start_before_spark() -> None:
    """Start the process if this command is going to run Spark on this machine, before importing pyspark."""
    if not is_spark_configured() and "pyspark" not in sys.modules:
        start_early_daemon()


@cache
def start_early_daemon() -> str:
    """Start the process, once; runs on the driver. Returns what `ADDRESS` is to be for the daemon.

    It ends with this process, or with the JVM once it is Spark's daemon, if this process is killed. Where it
    cannot be started (a socket's path may have some 100 characters), Spark's daemon does without.
    """
    try:
        return _start()
    except OSError as exc:
        logger.debug("the workers' imports do not begin early: %s", exc)
        return ""


def _start() -> str:
    """Start the process and return the path of its socket, in a folder of this user's own."""
    folder = tempfile.mkdtemp(prefix="spark_embed-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = os.path.join(folder, "daemon")
    lifeline, _ = os.pipe()  # its other end closes when this process ends, however it ends
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno()), str(lifeline)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(listener.fileno(), lifeline),
            process_group=0,  # a Ctrl-C is for the driver
            # As Spark would set it: OpenMP looks once, when it is loaded. A task sets its own number.
            env={"OMP_NUM_THREADS": "1", **os.environ},
        )
    os.close(lifeline)
    atexit.register(process.terminate)  # at once, if it is still importing
    return path


def hand_over() -> bool:
    """Let the early daemon, if there is one, be this process; runs in the daemon that Spark has started.

    Returns:
        False if there is none, or it runs another Python; else True, once it has ended.
    """
    path = os.environ.get(ADDRESS)
    if not path:
        return False
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.connect(path)
        message = json.dumps({"python": _python(), "environment": dict(os.environ)}).encode()
        socket.send_fds(connection, [len(message).to_bytes(4)], [0, 1, 2])
        connection.sendall(message)
        if taker := int.from_bytes(connection.recv(4)):
            signal.signal(signal.SIGTERM, lambda *_: os.kill(taker, signal.SIGTERM))
            connection.recv(1)  # it never writes: this returns when it is gone
            return True
    return False


def wait_and_take_over(listener: socket.socket, lifeline: int) -> socket.socket | None:
    """Become the daemon that comes to the socket: take its standard streams and its environment.

    Returns:
        The connection, to be kept open as long as this process lives; None if the driver has ended first,
        or a daemon of another Python came.
    """
    ready, _, _ = select.select([listener.fileno(), lifeline], [], [])
    if listener.fileno() not in ready:
        return None
    connection, _ = listener.accept()
    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    message = json.loads(_receive(connection, min(int.from_bytes(size), _MAX_MESSAGE_BYTES)))
    if message["python"] != _python():
        connection.close()
        return None
    for standard, stream in enumerate(streams):
        os.dup2(stream, standard)
        os.close(stream)
    os.environ.clear()
    os.environ.update(message["environment"])
    python_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [entry for entry in python_path if entry and entry not in sys.path]
    connection.sendall(os.getpid().to_bytes(4))
    return connection


def _python() -> list[str]:
    """Return what tells one Python from another; one may have several names (python, python3)."""
    return [sys.prefix, sys.version]


def _receive(connection: socket.socket, n_bytes: int) -> bytes:
    parts = bytearray()
    while len(parts) < n_bytes and (part := connection.recv(n_bytes - len(parts))):
        parts += part
    return bytes(parts)


def main() -> None:
    """Import, wait, take over, be the daemon."""
    from spark_embed.spark.worker_daemon import be_daemon, import_slow_modules

    listener, lifeline = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    import_slow_modules()
    connection = wait_and_take_over(listener, lifeline)
    shutil.rmtree(os.path.dirname(listener.getsockname()), ignore_errors=True)
    listener.close()
    os.close(lifeline)
    if connection is None:
        os._exit(0)  # an ordinary end would take seconds, and libraries would complain of leaks
    be_daemon()


if __name__ == "__main__":
    main()
