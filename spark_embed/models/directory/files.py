"""A folder with code -> a copy on this machine, its weights, and the hash of all that they hold."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import huggingface_hub

from spark_embed import storage
from spark_embed.errors import ModelError, StorageError, one_line
from spark_embed.models import Recipe
from spark_embed.models.directory.contract import CONFIG_FILE, FolderConfig, read_config
from spark_embed.models.folder import DOWNLOAD_ERRORS, find_folder, local_folder
from spark_embed.models.folder import read_config as read_config_of_weights
from spark_embed.models.local_copy import copy_folder
from spark_embed.models.weights import find_weights, hashed
from spark_embed.storage import StoredFile


@dataclass(frozen=True)
class FolderFiles:
    """A folder with code, on this machine.

    Attributes:
        folder: its path.
        revision: the commit, of a hub id.
        config: its config.json; `values` as it is.
        weights: path of the folder that `config.weights` names.
        paths: of all files that decide what a result is, by the names that are hashed with them.
    """

    folder: str
    revision: str | None
    config: FolderConfig
    values: dict[str, Any]
    weights: str | None
    paths: dict[str, str]


def list_model_files(folder: str, source: str) -> list[StoredFile]:
    """List the files below a folder here or in S3, but for hidden ones and Python's caches, sorted.

    Raises:
        ModelError: they cannot be listed, or one is a link to nothing.
    """
    try:
        found = list(storage.walk_files(folder))
    except StorageError as exc:
        raise ModelError(f"--model_directory {source}: {exc}") from exc
    files = [file for file in found if "__pycache__" not in file.path.split("/")]
    for file in files:
        if file.is_dead_link or file.unlisted:
            raise ModelError(f"--model_directory {source}: {file.path} cannot be read")
    return sorted(files, key=lambda file: file.path)


def fetch_files(recipe: Recipe) -> FolderFiles:
    """Return the folder that a recipe names, fetched if it is not on this machine.

    Raises:
        ModelError: it cannot be, or its config.json or weights cannot be used.
    """
    folder, revision = _fetch(recipe)
    config, values = read_config(folder, recipe.source)
    paths = {file.path: f"{folder}/{file.path}" for file in list_model_files(folder, recipe.source)}
    weights = None
    if config.weights is not None:
        weights, more = _find_weights(folder, config.weights, recipe)
        paths |= more
    return FolderFiles(folder, revision, config, values, weights, paths)


def _fetch(recipe: Recipe) -> tuple[str, str | None]:
    source = recipe.source
    if folder := local_folder(recipe):
        return os.path.abspath(folder), None
    try:
        if storage.is_s3(source):
            return copy_folder(source, list_model_files(source, source)), None
        folder = huggingface_hub.snapshot_download(source, revision=recipe.revision)
        return folder, os.path.basename(folder)
    except StorageError as exc:
        detail = str(exc).removeprefix(f"{source}: ")
        raise ModelError(f"--model_directory {source}: {detail}") from exc
    except DOWNLOAD_ERRORS as exc:
        raise ModelError(f"--model_directory {source}: cannot be fetched: {one_line(exc)}") from exc


def _find_weights(folder: str, weights: str, recipe: Recipe) -> tuple[str, dict[str, str]]:
    """Return the folder with the weights, and those of its files that are hashed and not in `folder`."""
    where = f"--model_directory {recipe.source}: {CONFIG_FILE}: weights {weights!r}"
    path = os.path.normpath(os.path.join(folder, os.path.expanduser(weights)))
    if os.path.isdir(path):
        if storage.is_inside(path, folder):
            return path, {}
        if local_folder(recipe) is None:  # what is beside a copy is not the model's
            raise ModelError(f"{where} lies outside the folder, which is not of this machine")
        files = list_model_files(path, recipe.source)
        return path, {f"{weights}/{file.path}": f"{path}/{file.path}" for file in files}
    there = replace(recipe, source=weights, revision=None, trust_remote_code=False)
    try:
        path, _ = find_folder(there)
        chosen = find_weights(path, read_config_of_weights(path, weights), there)
    except ModelError as exc:
        raise ModelError(f"{where}: {str(exc).removeprefix(f'--model_directory {weights}: ')}") from exc
    settings = [f"{path}/{name}" for name in os.listdir(path) if name.endswith(".json")]
    return path, {f"{weights}/{os.path.basename(file)}": file for file in [*chosen, *settings]}


@contextmanager
def unchanged(files: FolderFiles, source: str) -> Iterator[list[str]]:
    """Give a list that holds the hash of the files, sha256 in hex, after a `with` block that loads them.

    Raises:
        ModelError: one cannot be read, or changed meanwhile: what was hashed may not be what was loaded.
    """
    names = sorted(files.paths)
    made: list[str] = []
    try:
        with hashed([files.paths[name] for name in names]) as contents:
            yield made
        made.append(_joined_hash(names, files, contents.result()))
    except OSError as exc:
        raise ModelError(f"--model_directory {source}: {one_line(exc)}") from exc
    except ValueError as exc:
        raise ModelError(f"--model_directory {source}: its files changed while they were loaded") from exc


def _joined_hash(names: Sequence[str], files: FolderFiles, contents: str) -> str:
    # Their sizes say where the contents of one file end.
    sizes = [(name, os.path.getsize(files.paths[name])) for name in names]
    return hashlib.sha256(json.dumps([sizes, contents]).encode()).hexdigest()
