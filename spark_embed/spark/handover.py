"""How the daemon that Spark starts lets an earlier process be it: both ends of one socket. No session."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress

ADDRESS = "EARLY_WORKER_DAEMON"
"""Environment variable of the daemon: the path of the socket at which the early one waits; empty for none.

Not SPARK_EMBED_...: that is how options begin.
"""

_MAX_MESSAGE_BYTES = 1 << 20


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
