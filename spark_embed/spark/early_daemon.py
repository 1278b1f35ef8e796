"""A worker daemon that imports torch while the JVM is still starting; knows no session.

Spark starts its daemon when the first task needs one, seconds after the command began, and importing torch
and transformers takes as long again. On one machine the driver can begin earlier: it starts a process
that does the imports and waits. The daemon that Spark then starts hands its standard streams and environment
over to that process and stays only as long as it lives.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from functools import cache

from spark_embed.platforms import platform
from spark_embed.spark.handover import wait_and_take_over
from spark_embed.spark.worker_daemon import be_daemon, import_slow_modules

logger = logging.getLogger(__name__)

# Where one of these is set, somebody else has said how Spark is to run: spark-submit, or the site's files.
_CONFIGURED_BY = ("PYSPARK_GATEWAY_PORT", "PYSPARK_SUBMIT_ARGS", "SPARK_CONF_DIR")

_started: list[subprocess.Popen[bytes]] = []


def is_spark_configured() -> bool:
    """Say whether Spark's master and settings come from elsewhere than this project."""
    return any(name in os.environ for name in _CONFIGURED_BY)


def start_before_spark() -> None:
    """Start the process if this command may run Spark's tasks on this machine, before importing pyspark.

    Under spark-submit only the JVM knows the master: if that is a cluster's, `stop_early_daemon` follows.
    """
    if platform() is None and "pyspark" not in sys.modules and "SPARK_REMOTE" not in os.environ:
        start_early_daemon()


def stop_early_daemon() -> None:
    """End the process: the tasks run elsewhere."""
    while _started:
        _started.pop().terminate()


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
    _started.append(process)
    atexit.register(stop_early_daemon)  # at once, if it is still importing
    return path


def main() -> None:
    """Import, wait, take over, be the daemon."""
    listener, lifeline = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    try:
        import_slow_modules()
    except ImportError:  # a driver whose executors alone have torch; else Spark's own daemon says so
        os._exit(1)
    connection = wait_and_take_over(listener, lifeline)
    shutil.rmtree(os.path.dirname(listener.getsockname()), ignore_errors=True)
    listener.close()
    os.close(lifeline)
    if connection is None:
        os._exit(0)  # an ordinary end would take seconds, and libraries would complain of leaks
    be_daemon()


if __name__ == "__main__":
    main()
