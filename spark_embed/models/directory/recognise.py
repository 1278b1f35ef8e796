"""Whether --model_directory is a folder with code, which may run or not; on the driver, which runs none."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from functools import cache

import huggingface_hub

from spark_embed import storage
from spark_embed.config import ModelOptions
from spark_embed.errors import ModelError, StorageError, one_line
from spark_embed.models import Recipe
from spark_embed.models.directory.contract import (
    CODE_FILE,
    CONFIG_FILE,
    MAX_CONFIG_BYTES,
    find_code_problem,
    is_code_folder,
    is_config_of_code,
    parse_config,
    untrusted,
)
from spark_embed.models.directory.files import list_model_files
from spark_embed.models.folder import DOWNLOAD_ERRORS, local_folder

logger = logging.getLogger(__name__)


def has_code(options: ModelOptions) -> bool:
    """Say whether the model is a folder with code, which then may run: that is logged, once.

    A local folder is one that the operator named; what lies in S3 or on the hub, others may change. On the
    hub it is looked for only with the flag. Where the driver does not get to see a folder, the workers tell.

    Raises:
        ModelError: its code may not run.
    """
    source = options.model_directory or ""
    folder = _folder(source)
    if folder is None:
        return options.trust_remote_code and _is_code_on_hub(source, options.revision)
    try:
        config = _read(folder, CONFIG_FILE, MAX_CONFIG_BYTES + 1)
        is_there = _read(folder, CODE_FILE, 1) is not None
    except ModelError:
        return False
    if not is_code_folder(config, has_code=is_there):
        return False
    if storage.is_s3(folder) and not options.trust_remote_code:
        raise ModelError(untrusted(source))
    _tell(f"{folder}/{CODE_FILE}")
    return True


def read_options(options: ModelOptions) -> tuple[tuple[str, str], ...]:
    """Return what differs once a file of the folder has changed: no worker goes on with the code before."""
    folder = _folder(options.model_directory or "")
    if folder is None:
        return ()
    files = list_model_files(folder, folder)
    seen = [(file.path, file.n_bytes, file.modified_ns, file.etag) for file in files]
    return (("state", hashlib.sha256(json.dumps(seen).encode()).hexdigest()),)


def check_folder(recipe: Recipe) -> None:
    """Look at the folder's files before Spark starts; what a hub id has, the workers tell.

    Raises:
        ModelError: something is wrong with them, or with the options that go with it.
    """
    local_folder(recipe)  # has no revision
    check_options(recipe)
    folder = _folder(recipe.source)
    if folder is None:
        return
    problems = []
    try:
        parse_config(_read(folder, CONFIG_FILE, MAX_CONFIG_BYTES + 1))
    except ValueError as exc:
        problems.append(str(exc))
    problems += filter(None, [find_code_problem(_read(folder, CODE_FILE, -1))])
    if problems:
        raise ModelError(f"--model_directory {recipe.source}: {'; '.join(problems)}")


def check_options(recipe: Recipe) -> None:
    """Refuse what a folder with code cannot be asked for.

    Raises:
        ModelError: it is.
    """
    if recipe.compile_rows:
        raise ModelError(
            f"--model_directory {recipe.source}: --compile true: not for a folder with code; let its load() "
            "compile the network"
        )


def _folder(source: str) -> str | None:
    """Return where a folder is that can be looked at from here, None for a hub id or no folder."""
    if storage.is_s3(source):
        return storage.folder_path(source, "--model_directory")
    path = os.path.abspath(os.path.expanduser(source))
    return path if source and os.path.isdir(path) else None


def _read(folder: str, name: str, n_bytes: int) -> bytes | None:
    """Return the beginning of a file, None where there is none."""
    try:
        with storage.impatient(), storage.open_binary(f"{folder}/{name}") as file:
            return file.read(n_bytes)
    except FileNotFoundError:
        return None
    except (OSError, StorageError) as exc:
        raise ModelError(f"--model_directory {folder}: {name} cannot be read: {one_line(exc)}") from exc


def _is_code_on_hub(source: str, revision: str | None) -> bool:
    try:
        path = huggingface_hub.hf_hub_download(source, CONFIG_FILE, revision=revision)
        with open(path, "rb") as file:
            config, _ = parse_config(file.read(MAX_CONFIG_BYTES + 1))
    except DOWNLOAD_ERRORS:
        return False
    if not is_config_of_code(config.model_dump()):
        return False
    _tell(f"{CODE_FILE} of {source}")
    return True


@cache
def _tell(code: str) -> None:
    logger.info("model: runs the folder's own code, %s", code)
