"""Files of a folder in S3 -> a copy of them on this machine, made once however many workers want it.

A copy is whole from the moment it has its name, which the content of its files gives: another content is
another copy. Knows nothing of what is in the files.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from spark_embed import storage
from spark_embed.errors import StorageError
from spark_embed.storage import StoredFile

_UNFINISHED = ".part"


def copy_folder(source: str, files: Sequence[StoredFile]) -> str:
    """Return a local folder that holds `files`; the first worker to want them fetches them, others wait.

    One that was killed meanwhile leaves nothing that is taken for a copy, and the next one begins anew.

    Args:
        source: URI of the folder in S3.
        files: what it lists of them.

    Raises:
        StorageError: they cannot be fetched, or not be kept here.
    """
    for file in files:
        if ".." in file.path.split("/"):  # a key may be any text; no file of a copy lies outside of it
            raise StorageError(f"{source}/{file.path}: cannot be copied: its key has a '..'")
    root = _cache_folder()
    copy = os.path.join(root, _content_name(source, files))
    try:
        if not _is_whole(copy, files):
            with _turn(os.path.join(root, "lock")) as is_ours:
                if is_ours:
                    _delete_unfinished(root)
                if not _is_whole(copy, files):
                    _fetch(source, files, copy)
    except OSError as exc:
        raise StorageError(f"cannot be kept in {root} (XDG_CACHE_HOME names another place): {exc}") from exc
    return copy


def _cache_folder() -> str:
    """Return the folder of all copies: beside the hub's, or a private one where no home is writable.

    Raises:
        StorageError: there is none.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # https://specifications.freedesktop.org/basedir-spec: to be ignored
        cache = os.path.expanduser("~/.cache")
    folder = os.path.join(cache, "spark_embed", "models")
    if os.path.isabs(folder):
        with suppress(OSError):
            os.makedirs(folder, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    # In a folder that anybody may write to, so looked at: pickles and code are read from it.
    private = os.path.join(tempfile.gettempdir(), f"spark_embed-{os.getuid()}")
    try:
        os.makedirs(private, mode=0o700, exist_ok=True)
        status = os.lstat(private)
        os.makedirs(os.path.join(private, "models"), exist_ok=True)
    except OSError as exc:
        raise StorageError(f"no folder to keep it in; XDG_CACHE_HOME names one: {exc}") from exc
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise StorageError(f"{private} is somebody else's, or open to them; XDG_CACHE_HOME names another")
    return os.path.join(private, "models")


def _content_name(source: str, files: Sequence[StoredFile]) -> str:
    bucket, key = storage.split_s3(source)
    # A store that gives no ETag has the time still.
    content = [[bucket, key, file.path, file.n_bytes, file.etag or file.modified_ns] for file in files]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _is_whole(copy: str, files: Sequence[StoredFile]) -> bool:
    """Say whether all is there: who tidies temporary folders takes single files, by their age."""
    try:
        return all(os.path.getsize(os.path.join(copy, file.path)) == file.n_bytes for file in files)
    except OSError:
        return False


@contextmanager
def _turn(path: str) -> Iterator[bool]:
    """Wait until nobody else on this machine is at it; the death of who was ends that, too.

    False where the file system knows no locks: then some fetch the same, and one of their copies stays.
    """
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            is_ours = True
        except OSError:
            is_ours = False
        yield is_ours


def _delete_unfinished(root: str) -> None:
    """Delete what was begun by who was killed: they can be gigabytes."""
    for name in os.listdir(root):
        if name.endswith(_UNFINISHED):
            shutil.rmtree(os.path.join(root, name), ignore_errors=True)


def _fetch(source: str, files: Sequence[StoredFile], copy: str) -> None:
    n_bytes = sum(file.n_bytes for file in files)
    if storage.free_bytes(os.path.dirname(copy)) < n_bytes:
        raise storage.no_space_error(copy, n_bytes)
    folder = tempfile.mkdtemp(dir=os.path.dirname(copy), suffix=_UNFINISHED)
    try:
        for file in files:
            path = os.path.join(folder, file.path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            storage.download(f"{source}/{file.path}", path, file)
        shutil.rmtree(copy, ignore_errors=True)  # what somebody's tidying has left of it
        os.rename(folder, copy)
    except OSError:
        if not _is_whole(copy, files):  # without locks, another one may have been sooner
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
