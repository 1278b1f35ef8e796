"""A recipe's source -> a folder on this machine, its config.json, the files of its weights and their hash.

Knows the hub and S3, and no network: what the files mean is checkpoint.py's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import huggingface_hub
import huggingface_hub.errors

from spark_embed import storage
from spark_embed.errors import ModelError, StorageError, one_line
from spark_embed.models import Recipe
from spark_embed.models.local_copy import copy_folder

# One file, or numbered ones.
_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_PICKLED = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
_PICKLE_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")
_HASH_CHUNK_BYTES = 1 << 22

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
        suffixes = (".json", ".py") if recipe.trust_remote_code else (".json",)
        wanted = {name for name in files if name.endswith(suffixes)}.union(_choose_weights(files, recipe))
        return copy_folder(source, [files[name] for name in sorted(wanted)])
    except StorageError as exc:
        detail = str(exc).removeprefix(f"{source}: ")
        raise ModelError(f"--model_directory {source}: {detail}") from exc


def read_config(folder: str, source: str) -> dict[str, Any]:
    """Return the folder's config.json.

    Raises:
        ModelError: it is missing, not JSON, or not an object.
    """
    path = os.path.join(folder, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except FileNotFoundError as exc:
        raise _no_config(source) from exc
    except (OSError, ValueError, RecursionError) as exc:
        raise ModelError(f"--model_directory {source}: config.json cannot be read: {one_line(exc)}") from exc
    if not isinstance(config, dict):
        raise ModelError(f"--model_directory {source}: config.json is not an object")
    return config


def _no_config(source: str) -> ModelError:
    return ModelError(
        f"--model_directory {source}: no config.json in it; expected a folder in Hugging Face layout "
        "(config.json, model.safetensors, preprocessor_config.json)"
    )


def find_weights(folder: str, recipe: Recipe) -> list[str]:
    """Return the files that will be loaded; a repository may hold others, of open_clip for example.

    Raises:
        ModelError: there are none, or only pickled ones that the recipe does not allow.
    """
    try:
        names = os.listdir(folder)
    except OSError as exc:
        raise ModelError(f"--model_directory {recipe.source}: cannot be listed: {one_line(exc)}") from exc
    return [os.path.join(folder, name) for name in _choose_weights(names, recipe)]


def _choose_weights(names: Iterable[str], recipe: Recipe) -> list[str]:
    names = sorted(names)
    weights = [name for name in names if _SAFETENSORS.fullmatch(name)]
    if not weights:
        pickled = [name for name in names if name.endswith(_PICKLE_SUFFIXES)]
        if pickled and not recipe.allow_pickle_weights:
            raise ModelError(
                f"--model_directory {recipe.source}: only pickled weights ({', '.join(pickled)}); "
                "convert them to model.safetensors, or accept them with --allow_pickle_weights"
            )
        weights = [name for name in pickled if _PICKLED.fullmatch(name)]
    if not weights:
        # not downloaded from a hub without the flag, so there may be some
        hint = " or pytorch_model.bin" if recipe.allow_pickle_weights else "; pickled: --allow_pickle_weights"
        raise ModelError(f"--model_directory {recipe.source}: no weights in it (model.safetensors{hint})")
    return weights


def hash_files(paths: Sequence[str]) -> str:
    """Return the sha256, in hex, of the files one after the other.

    Raises:
        OSError: one of them cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(_HASH_CHUNK_BYTES):
                digest.update(block)
    return digest.hexdigest()
