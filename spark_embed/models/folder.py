"""A recipe's source -> a folder on this machine, and its config.json.

Knows the hub and S3, and no network: what the files mean is checkpoint.py's, which are weights weights.py's.
"""

from __future__ import annotations

import json
import os
from typing import Any

import huggingface_hub
import huggingface_hub.errors

from spark_embed import storage
from spark_embed.errors import ModelError, StorageError, one_line
from spark_embed.models import Recipe
from spark_embed.models.local_copy import copy_folder
from spark_embed.models.weights import choose_weights

HUB_ERRORS: tuple[type[Exception], ...] = tuple(
    error
    for error in vars(huggingface_hub.errors).values()
    if isinstance(error, type) and issubclass(error, Exception)
)
"""All that the hub's library names. Few are OSErrors, and one is the base of what its HTTP library raises
when a download breaks off (httpx from hub 1 on). Its checks of a config.json's types are here, too."""

_DOWNLOAD_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, *HUB_ERRORS)


def find_folder(recipe: Recipe) -> tuple[str, str | None]:
    """Return the local folder with the files of the model, and the commit if it came from the hub.

    Raises:
        ModelError: there is no such folder, the hub or S3 does not give it, or a folder has a revision.
    """
    source = os.path.expanduser(recipe.source)
    if storage.is_s3(source) or os.path.isdir(source):
        if recipe.revision:
            raise ModelError(
                f"--revision {recipe.revision}: only a hub id has one, {recipe.source} is a folder"
            )
        return _copy(recipe) if storage.is_s3(source) else source, None
    if os.path.isabs(source) or source.startswith(".") or source.count("/") > 1:
        raise ModelError(f"--model_directory {recipe.source}: there is no such folder")
    folder = _download(recipe)
    return folder, os.path.basename(folder)


def _download(recipe: Recipe) -> str:
    patterns = ["*.json", "model*.safetensors"]
    patterns += ["pytorch_model*.bin"] if recipe.allow_pickle_weights else []
    patterns += ["*.py"] if recipe.trust_remote_code else []
    try:
        return huggingface_hub.snapshot_download(
            recipe.source, revision=recipe.revision, allow_patterns=patterns
        )
    except _DOWNLOAD_ERRORS as exc:
        raise ModelError(
            f"--model_directory {recipe.source}: neither a folder here nor a hub id that can be fetched: "
            f"{one_line(exc)}"
        ) from exc


def _copy(recipe: Recipe) -> str:
    """Return a copy, on this machine, of what will be read from a folder in S3.

    What is missing is told before anything is fetched. Code comes only where it may be run.
    """
    source = recipe.source
    try:
        files = {file.path: file for file in storage.list_folder(source)}
        if not files:
            raise ModelError(f"--model_directory {source}: there is no such folder, or it holds only folders")
        if "config.json" not in files:
            raise _no_config(source)

        def read(name: str) -> str:
            return storage.read_text(f"{source}/{name}") or ""

        weights = choose_weights(files, read, parse_config(read("config.json"), source), recipe)
        suffixes = (".json", ".py") if recipe.trust_remote_code else (".json",)
        wanted = {name for name in files if name.endswith(suffixes)}.union(weights)
        return copy_folder(source, [files[name] for name in sorted(wanted)])
    except StorageError as exc:
        detail = str(exc).removeprefix(f"{source}: ")
        raise ModelError(f"--model_directory {source}: {detail}") from exc


def read_config(folder: str, source: str) -> dict[str, Any]:
    """Return the folder's config.json.

    Raises:
        ModelError: it is missing, not JSON, or not an object.
    """
    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            return parse_config(file.read(), source)
    except FileNotFoundError as exc:
        raise _no_config(source) from exc
    except (OSError, ValueError) as exc:
        raise ModelError(f"--model_directory {source}: config.json cannot be read: {one_line(exc)}") from exc


def parse_config(text: str, source: str) -> dict[str, Any]:
    """Return a config.json's object.

    Raises:
        ModelError: it is no JSON, or no object; or a Git LFS pointer.
    """
    where = f"--model_directory {source}: config.json"
    if storage.is_lfs_pointer(text[:64].encode()):
        raise ModelError(f"{where} is {storage.LFS_POINTER}")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ModelError(f"{where} cannot be read: {one_line(exc)}") from exc
    if not isinstance(config, dict):
        raise ModelError(f"{where} is not an object")
    return config


def _no_config(source: str) -> ModelError:
    return ModelError(
        f"--model_directory {source}: no config.json in it; expected a folder in Hugging Face layout "
        "(config.json, model.safetensors, preprocessor_config.json)"
    )
