"""One run at a time on an output folder: the lock of a run, taken, kept and let go; knows no Spark.

The lock is a small file that names its owner. On one machine the owner's process says whether it is alive;
from another machine its heartbeat does, by clocks that agree to well within `SILENT_S`.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from contextlib import suppress
from types import TracebackType

from spark_embed.errors import ResumeError, SparkEmbedError, StorageError
from spark_embed.output.lock.file import LockFile, make_lock_file
from spark_embed.output.lock.owner import SILENT_S, Owner, judge, make_record, not_a_lock, read_record
from spark_embed.storage import impatient, make_folder, write_error

logger = logging.getLogger(__name__)

HEARTBEAT_S = 15.0

_MISSED_S = 2 * HEARTBEAT_S
"""An owner elsewhere that was not heard of for so long is waited for, until it is or counts as ended."""

_LOOK_EVERY_S = 1.0
_EXIT_WAIT_S = 5.0
_MAX_TRIES = 10


class OutputLock:
    """The lock of one run on its output folder, held during a `with` block, once. Lives on the driver.

    A daemon thread renews the heartbeat. An owner that was not heard of for `SILENT_S` (a laptop that slept)
    may lose the lock to another machine: so a run calls `check` before whatever it makes final.

    Args:
        path: the lock's file; its folder is made.
        root: the output folder, for messages.
        heartbeat_s: how often the heartbeat is renewed.
    """

    def __init__(self, path: str, root: str, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._path = path
        self._root = root
        self._heartbeat_s = heartbeat_s
        self._file = make_lock_file(path)
        self._record = make_record(uuid.uuid4().hex)
        self._stop = threading.Event()
        self._said = ""
        self._is_lost = False
        self._renewed = time.monotonic()
        self._failure = "the storage does not answer"
        self._thread = threading.Thread(target=self._beat, name="output-lock", daemon=True)

    def __enter__(self) -> OutputLock:
        """Take the lock.

        Raises:
            ResumeError: another run holds it, or the file is not one of ours.
            StorageError: the file cannot be read or written.
        """
        try:
            self._take()
            self._thread.start()
        except BaseException:  # a Ctrl-C in a notebook, whose process lives on and would go on holding it
            self._let_go()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_EXIT_WAIT_S)
        if not self._thread.is_alive():  # else the file system hangs: this process ends, and so does its lock
            self._let_go()

    def check(self) -> None:
        """Renew the lock: what is made final within the next `SILENT_S` is this run's alone.

        Raises:
            ResumeError: it is no longer this run's.
            StorageError: the file cannot be read or written.
        """
        while self._renew():
            if time.monotonic() - self._renewed < SILENT_S / 2:
                return  # else it was old when the storage took it
        owner = read_owner(self._path)
        if owner is None:
            reason = f"{self._path} is gone, and another run may have begun"
        else:
            reason = f"another run has taken it over: {owner}"
        raise ResumeError(
            f"--output_dir {self._root}: {reason}; this run changes nothing more: "
            "start it again when no other is at work there"
        )

    def watch(self) -> None:
        """Look whether the lock may be lost, without asking: it costs nothing.

        Raises:
            ResumeError: it is no longer this run's.
            StorageError: it could not be renewed for so long that another run may take it.
        """
        if self._is_lost:
            self.check()
        silent_s = time.monotonic() - self._renewed
        if silent_s > SILENT_S:
            raise StorageError(
                f"{self._path}: could not be renewed for {silent_s:.0f} s: {self._failure}; what is complete "
                "stays so: start the same command again when the storage is back, and it goes on"
            )

    def _take(self) -> None:
        """Take the lock; of an owner elsewhere that has missed its beats, after waiting whether it is dead.

        So a run that is started anew on another machine, its own having died, goes on by itself.
        """
        while (dying := self._try_to_take()) is not None:
            if self._said != dying.since:
                logger.warning("waiting whether the run that holds --output_dir is alive: %s", dying)
                self._said = dying.since
            time.sleep(_LOOK_EVERY_S)

    def _try_to_take(self) -> Owner | None:
        """Take the lock; returns its owner if that may be dead, and can only be said so later."""
        try:
            make_folder(os.path.dirname(self._path) or ".")
            with self._file.guarded():
                for _ in range(_MAX_TRIES):
                    self._renewed = time.monotonic()
                    if self._file.create(self._text()):
                        return None
                    owner = read_owner(self._path, self._file)  # None if it was let go just now
                    if owner is not None and owner.is_alive and (owner.silent_s or 0) > _MISSED_S:
                        return owner
                    if owner is not None and self._take_over(owner):
                        return None
                raise not_a_lock(self._path)  # a link to nothing, say
        except OSError as exc:
            raise write_error(self._path, exc, 0) from exc

    def _take_over(self, owner: Owner) -> bool:
        _check_dead(owner, self._root)
        if not self._file.replace(self._text()):
            return False
        logger.warning(
            "--output_dir %s: taken over from a run that ended without letting go of it: %s",
            self._root,
            owner,
        )
        return True

    def _text(self) -> str:
        """Return the file's content, with the heartbeat of now."""
        return json.dumps({**self._record.model_dump(), "heartbeat": time.time()}, indent=2)

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            try:
                with impatient():
                    if not self._renew():
                        return
            except SparkEmbedError as exc:  # the storage may come back; `watch` tells if it does not
                self._failure = str(exc)
                logger.debug("--output_dir %s: no heartbeat this time: %s", self._root, exc)

    def _renew(self) -> bool:
        """Write the heartbeat if the lock is this run's; once lost, it stays lost."""
        began = time.monotonic()
        try:
            with self._file.guarded():
                ours = not self._is_lost and self._is_ours()
                self._is_lost = not (ours and self._file.replace(self._text()))
                self._renewed = began
        except FileNotFoundError:  # the whole folder
            self._is_lost = True
        except OSError as exc:
            raise write_error(self._path, exc, 0) from exc
        return not self._is_lost

    def _is_ours(self) -> bool:
        found = read_record(self._path, self._file.read)
        return found is not None and found.token == self._record.token

    def _let_go(self) -> None:
        """Delete the file if it is this run's; a file system that has vanished took it along."""
        with suppress(OSError, SparkEmbedError), impatient(), self._file.guarded():
            if self._is_ours():
                self._file.delete()


def _check_dead(owner: Owner, root: str) -> None:
    if owner.is_alive:
        hint = "" if owner.silent_s is None else f" (it counts as ended after {SILENT_S:.0f} s of silence)"
        raise ResumeError(f"--output_dir {root}: another run holds it: {owner}; wait for it or end it{hint}")


def read_owner(path: str, file: LockFile | None = None) -> Owner | None:
    """Return who holds the lock at `path`, as far as this machine can tell; None if nobody has taken it.

    Raises:
        ResumeError: the file is not a lock of ours.
        StorageError: it cannot be read.
    """
    found = read_record(path, (file or make_lock_file(path)).read)
    return None if found is None else judge(found)
