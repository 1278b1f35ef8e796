"""Who holds an output folder, and whether it is alive; takes nothing and writes nothing."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from spark_embed.errors import ResumeError, StorageError
from spark_embed.output.records import now

SILENT_S = 120.0
"""An owner on another machine that was not heard of for so long counts as ended."""


class LockRecord(BaseModel):
    """The content of lock.json: which process of which machine holds the lock.

    Attributes:
        token: of this one taking; nothing else tells two of them apart for sure.
        boot_id: of the running kernel; "" where the system has none.
        pid_namespace: within which `pid` is meant (a container's own, mostly); "" where there are none.
        pid_started: in clock ticks since the boot: a number of a process is given again; "" if unknown.
        since: ISO 8601, UTC.
        heartbeat: when the owner last wrote this, in Unix seconds of its clock.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    token: str
    host: str
    boot_id: str
    pid_namespace: str
    pid: Annotated[int, Field(gt=0, lt=1 << 31)]
    pid_started: str
    since: str
    heartbeat: Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Owner:
    """The run that a lock names, as text: host H, pid P, since T.

    Attributes:
        is_alive: whether the folder is still its own.
        silent_s: for how long it was not heard of; None where its process itself was looked at.
    """

    host: str
    pid: int
    since: str
    is_alive: bool
    silent_s: float | None = None

    def __str__(self) -> str:
        silence = "" if self.silent_s is None else f", last heard of {self.silent_s:.0f} s ago"
        return f"host {self.host}, pid {self.pid}, since {self.since}{silence}"


def read_record(path: str, read: Callable[[], str | None]) -> LockRecord | None:
    """Return what the lock at `path` says; None if there is none.

    Args:
        path: for messages.
        read: gives its text.

    Raises:
        ResumeError: the file is not a lock of ours.
        StorageError: it cannot be read.
    """
    try:
        text = read()
        return None if text is None else LockRecord.model_validate_json(text)
    except OSError as exc:
        raise StorageError(f"{path}: cannot be read: {exc}") from exc
    except ValueError as exc:  # pydantic's, too
        raise not_a_lock(path) from exc


def not_a_lock(path: str) -> ResumeError:
    """Return what to raise where nobody can say who holds the folder."""
    return ResumeError(
        f"{path}: does not say which run holds the folder (it is damaged, or of another version); "
        "delete it if no run is at work there"
    )


def make_record(token: str) -> LockRecord:
    """Return the record of this process."""
    host, boot_id, pid_namespace = _machine()
    return LockRecord(
        token=token,
        host=host,
        boot_id=boot_id,
        pid_namespace=pid_namespace,
        pid=os.getpid(),
        pid_started=_process_start(os.getpid()) or "",
        since=now(),
        heartbeat=time.time(),
    )


def judge(record: LockRecord) -> Owner:
    """Say whether the owner is alive: by its process if this machine can tell, else by its heartbeat."""
    place = (record.host, record.boot_id, record.pid_namespace)
    if all(place) and place == _machine():
        started = _process_start(record.pid)
        if started is None:
            return Owner(record.host, record.pid, record.since, is_alive=False)
        if started and record.pid_started:
            return Owner(record.host, record.pid, record.since, is_alive=started == record.pid_started)
    silent_s = max(0.0, time.time() - record.heartbeat)
    return Owner(record.host, record.pid, record.since, silent_s <= SILENT_S, silent_s)


def _machine() -> tuple[str, str, str]:
    """Return what two processes share if the number of one means the same to the other.

    The host's name is in it for clones of a virtual machine, which share all else.
    """
    boot_id = pid_namespace = ""
    with suppress(OSError):  # not Linux
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot_id = file.read().strip()
        if os.readlink("/proc/self") == str(os.getpid()):  # else /proc shows another namespace's processes
            pid_namespace = os.readlink("/proc/self/ns/pid")
    return socket.gethostname(), boot_id, pid_namespace


def _process_start(pid: int) -> str | None:
    """Return when a process started, in clock ticks since the boot; "" if unknown, None if there is none.

    One that has ended and waits for its parent to take notice counts as none.
    """
    try:
        with suppress(PermissionError):  # another user's
            os.kill(pid, 0)
    except ProcessLookupError:
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = (
                file.read().rpartition(b")")[2].split()
            )  # from the 3rd on: the 2nd, a name, may be anything
    except OSError:
        return ""  # not Linux, or mounted so that it hides other users' processes
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()
