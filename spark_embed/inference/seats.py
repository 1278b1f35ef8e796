"""Which GPU of its executor a task takes: that of its worker's model, unless another task has it.

Spark gives every task a GPU's address, but a worker process gets another address with each task, and a model
stays on the GPU onto which it was loaded. So tasks change places: in a folder that the workers of an executor
share, each notes the address that it was given, and locks the GPU that it takes until it ends. As the running
tasks have different addresses, one of those that are noted is always free. Knows no Spark and no torch.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import quote, unquote

_MAX_ADDRESS_BYTES = 1 << 10

_home: str | None = None
"""The GPU that this process took last, on which its model is."""


@contextmanager
def take_gpu(folder: str | None, address: str, visible: Sequence[str] = ()) -> Iterator[str]:
    """Hold a GPU inside a `with` block; gives its number among those that torch sees.

    Args:
        folder: of the executor, on this machine; None, or one that cannot be written to: no changing places.
        address: what Spark gave the task.
        visible: CUDA_VISIBLE_DEVICES, where it is set: what torch numbers from 0 on.
    """
    global _home
    gpu, descriptor = _own_gpu(address, visible), None
    if folder is not None:
        with suppress(OSError):
            gpu, descriptor = _take(folder, address, gpu, visible)
    _home = gpu
    try:
        yield str(visible.index(gpu)) if visible else gpu
    finally:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child process may have the descriptor, too
            os.close(descriptor)


def _own_gpu(address: str, visible: Sequence[str]) -> str:
    """Return which of the visible GPUs an address means.

    nvidia-smi, and so Spark's discovery script, gives numbers that are in the list; Spark's own code
    (pyspark.ml.torch.distributor) takes an address for a place in it.
    """
    if not visible or address in visible:
        return address
    return visible[int(address)] if address.isdecimal() and int(address) < len(visible) else visible[0]


def _take(folder: str, address: str, own: str, visible: Sequence[str]) -> tuple[str, int | None]:
    """Return the GPU to take, and the descriptor that holds its lock; None: it is shared."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with _turn(f"{folder}.lock"):
        os.close(_open(folder, own))
        noted = map(unquote, sorted(os.listdir(folder)))
        for gpu in dict.fromkeys((_home or own, own, *noted, *visible)):
            if visible and gpu not in visible:
                continue  # noted by a worker that sees others
            descriptor = _open(folder, gpu)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, _MAX_ADDRESS_BYTES, 0).decode()
                os.close(descriptor)
                if gpu == own and holder == address:
                    break  # Spark has given it to both: spark.task.resource.gpu.amount is below 1
            else:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, address.encode(), 0)
                return gpu, descriptor
    return own, None


def _open(folder: str, gpu: str) -> int:
    return os.open(os.path.join(folder, quote(gpu, safe="")), os.O_RDWR | os.O_CREAT, 0o600)


@contextmanager
def _turn(path: str) -> Iterator[None]:
    """Let one worker at a time look for a free GPU."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
