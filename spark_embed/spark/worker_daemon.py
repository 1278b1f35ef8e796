"""Python workers that start with torch imported: Spark's own daemon, with the slow imports before it forks.

Every worker is forked from the daemon, so that an executor pays for the imports once and its workers share
their memory. Spark starts it where spark.python.daemon.module names it (conf/local.conf); where
`spark_embed.spark.early_daemon` has begun with the imports already, that process becomes the daemon instead.
Importing torch starts no thread and touches no GPU, which is what makes the fork safe.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from spark_embed.spark.handover import hand_over

_PR_SET_PDEATHSIG = 1  # prctl(2)


def import_slow_modules() -> None:
    """Import what a worker needs for any model."""
    gc.disable()  # nothing that is imported becomes garbage: a sixth of the time
    import timm
    import torchvision
    from transformers import AutoImageProcessor, AutoModel

    gc.enable()
    del timm, torchvision, AutoImageProcessor, AutoModel
    gc.collect()
    gc.freeze()  # the workers' collector leaves these pages alone, so they stay shared


def be_daemon() -> None:
    """Be Spark's daemon until Spark closes the standard input, and end without a word.

    An ordinary end would let libraries complain of leaks, and a worker whose JVM ends while it says hello
    would print a traceback: all of it after the run's last line.
    """
    from pyspark import daemon  # not before: the process that only hands over is to be quick

    serve: Callable[..., int] = daemon.worker
    own_pid = os.getpid()

    def worker(*args: object) -> int:
        end_with(own_pid)
        try:
            return serve(*args)
        except EOFError:
            os._exit(0)

    daemon.worker = worker
    try:
        daemon.manager()  # type: ignore[no-untyped-call]
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)


def end_with(daemon_pid: int) -> None:
    """Let this worker end when its daemon does, in the middle of a task, too; only Linux can.

    Spark's daemon tells its workers when it ends; but not if it is killed, or is sent SIGTERM (by the JVM
    that closes its standard input at that moment) while it is about to tell them.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != daemon_pid:  # it has ended meanwhile
        os._exit(0)


def main() -> None:
    """Be the daemon, unless another process is."""
    if not hand_over():
        import_slow_modules()
        be_daemon()


if __name__ == "__main__":
    main()
