"""What there is at a path: listings, sizes, room; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from spark_embed.storage.files import StoredFile
from spark_embed.storage.paths import is_shown
from spark_embed.storage.s3.errors import path_in_error
from spark_embed.storage.store import as_storage_error, store_of


def list_files(folder: str, suffix: str) -> list[StoredFile]:
    """List the files below `folder` whose name ends with `suffix`, sorted by path.

    Names that begin with _ or . are left out, as Spark leaves them out (`_col=value` folders stay).

    Raises:
        StorageError: a folder cannot be listed.
    """
    with as_storage_error(folder, "listed"):
        files = store_of(folder).walk(folder)
        chosen = [file for file in files if file.path.endswith(suffix) and is_shown(file.path)]
        for dead in (file.path for file in chosen if file.is_dead_link):
            store_of(folder).check_link(f"{folder}/{dead}")
        return sorted(chosen, key=lambda file: file.path)


def walk_files(folder: str) -> Iterator[StoredFile]:
    """Yield the files below `folder`, those and folders whose name begins with a dot left out.

    The order is that of the names, but for a local folder of very many: nothing holds them all.

    Raises:
        StorageError: a folder cannot be listed.
    """
    with as_storage_error(folder, "listed"):
        yield from store_of(folder).walk(folder)


def list_names(folder: str) -> list[str]:
    """Return the names in `folder`, sorted; none if it does not exist.

    Raises:
        StorageError: it cannot be listed.
    """
    with as_storage_error(folder, "listed"):
        return store_of(folder).list_names(folder)


def list_folder(folder: str) -> list[StoredFile]:
    """List the files in `folder` itself, sorted by name, hidden ones too; none if it does not exist.

    Raises:
        StorageError: it cannot be listed.
    """
    with as_storage_error(folder, "listed"):
        return store_of(folder).list_folder(folder)


def stat(path: str) -> StoredFile:
    """Return what there is to know of the file at `path` without reading it.

    Raises:
        OSError: there is none, or it cannot be reached.
    """
    with path_in_error(path):
        return store_of(path).stat(path)


def exists(path: str) -> bool:
    """Say whether there is a file or a folder at `path`.

    Raises:
        StorageError: S3 does not say.
    """
    with as_storage_error(path, "read"):
        return store_of(path).exists(path)


def is_file(path: str) -> bool:
    """Say whether there is a file at `path`.

    Raises:
        StorageError: S3 does not say.
    """
    with as_storage_error(path, "read"):
        return store_of(path).is_file(path)


def is_folder(path: str) -> bool:
    """Say whether there is a folder at `path`; in S3: anything below it.

    Raises:
        StorageError: S3 does not say.
    """
    with as_storage_error(path, "listed"):
        return store_of(path).is_folder(path)


def check_writable(folder: str) -> None:
    """Look whether `folder`, which need not exist, could be written to, as far as that shows beforehand.

    Raises:
        OSError: it could not.
    """
    store_of(folder).check_writable(folder)


def free_bytes(path: str) -> float:
    """Return how much can still be stored where `path` is, or will be; infinity in S3."""
    return store_of(path).free_bytes(path)
