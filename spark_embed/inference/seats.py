"""Which GPU of its executor a task takes: that of its worker's model, unless another task has it.

Spark gives every task a GPU's address, but a worker process gets another address with each task, and a model
stays on the GPU onto which it was loaded. So tasks change places: in a folder that the workers of an executor
share, each notes the address that it was given, and locks the GPU that it takes until it ends. As the running
tasks have different addresses, one of those that are noted is always free. A worker also locks the GPU of its
model for life, so that a new one looks for another first. Knows no Spark and no torch.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple
from urllib.parse import quote, unquote

_MAX_ADDRESS_BYTES = 1 << 10


class _Home(NamedTuple):
    """The GPU that this process took last, on which its model is; the lock says so to other workers."""

    gpu: str
    lock: int | None


_home: _Home | None = None


@contextmanager
def take_gpu(folder: str | None, address: str, visible: Sequence[str] = ()) -> Iterator[str]:
    """Hold a GPU inside a `with` block; gives its number among those that torch sees.

    Args:
        folder: of the executor, on this machine; None, or one that cannot be written to: no changing places.
        address: what Spark gave the task.
        visible: CUDA_VISIBLE_DEVICES, where it is set: what torch numbers from 0 on.
    """
    gpu, lock = _own_gpu(address, visible), None
    if folder is not None:
        with suppress(OSError):
            gpu, lock = _take(folder, address, gpu, visible)
    try:
        yield str(visible.index(gpu)) if visible else gpu
    finally:
        _unlock(lock)


def _own_gpu(address: str, visible: Sequence[str]) -> str:
    """Return which of the visible GPUs an address means.

    nvidia-smi, and so Spark's discovery script, gives numbers that are in the list; Spark's own code
    (pyspark.ml.torch.distributor) takes an address for a place in it.
    """
    if not visible or address in visible:
        return address
    return visible[int(address)] if address.isdecimal() and int(address) < len(visible) else visible[0]


def _take(folder: str, address: str, own: str, visible: Sequence[str]) -> tuple[str, int | None]:
    """Return the GPU to take, and what holds its lock; None: it is shared."""
    tasks, homes = os.path.join(folder, "tasks"), os.path.join(folder, "homes")
    for name in (tasks, homes):
        os.makedirs(name, mode=0o700, exist_ok=True)
    with _turn(os.path.join(folder, "turn")):
        holder = _note(tasks, own)
        if _home is None and holder == address:
            return own, None  # Spark has given it to both: spark.task.resource.gpu.amount is below 1
        noted = [*map(unquote, sorted(os.listdir(tasks))), *visible]
        others = sorted((own, *noted), key=lambda gpu: _is_locked(homes, gpu))  # who is nobody's home first
        for gpu in dict.fromkeys((_home.gpu if _home else others[0], *others)):
            if visible and gpu not in visible:
                continue  # noted by a worker that sees others
            if (lock := _lock(tasks, gpu)) is not None:
                try:
                    os.pwrite(lock, address.encode(), 0)
                    _settle(homes, gpu)
                except OSError:
                    _unlock(lock)
                    raise
                return gpu, lock
    return _home.gpu if _home else own, None


def _note(tasks: str, gpu: str) -> str | None:
    """Note that there is such a GPU; return the address that the task on it was given, None for no task."""
    if (lock := _lock(tasks, gpu)) is not None:
        _unlock(lock)
        return None
    with open(_path(tasks, gpu), encoding="utf-8") as file:
        return file.read(_MAX_ADDRESS_BYTES)


def _settle(homes: str, gpu: str) -> None:
    """Make a GPU this process's home, if it is not."""
    global _home
    if _home is None or _home.gpu != gpu:
        if _home is not None:
            _unlock(_home.lock)
        _home = _Home(gpu, _lock(homes, gpu))


def _is_locked(folder: str, gpu: str) -> bool:
    lock = _lock(folder, gpu)
    _unlock(lock)
    return lock is None


def _lock(folder: str, gpu: str) -> int | None:
    """Lock a GPU and empty its file; None where another process has it."""
    lock = os.open(_path(folder, gpu), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    os.ftruncate(lock, 0)
    return lock


def _unlock(lock: int | None) -> None:
    if lock is not None:
        fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: a child process may have it, too
        os.close(lock)


def _path(folder: str, gpu: str) -> str:
    return os.path.join(folder, quote(gpu, safe=""))


@contextmanager
def _turn(path: str) -> Iterator[None]:
    """Let one worker at a time look for a free GPU."""
    turn = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield
    finally:
        _unlock(turn)
