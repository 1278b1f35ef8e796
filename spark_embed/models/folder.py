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

TOKENIZER_FILES = ("merges.txt", "vocab.txt", "spiece.model", "tokenizer.model")
"""Files of a tokenizer that are not JSON, by the vocab_files_names of transformers' tokenizers."""

HUB_ERRORS: tuple[type[Exception], ...] = tuple(
    error
    for error in vars(huggingface_hub.errors).values()
    if isinstance(error, type) and issubclass(error, Exception)
)
"""All that the hub's library names. Few are OSErrors, and one is the base of what its HTTP library raises
when a download breaks off (httpx from hub 1 on). Its checks of a config.json's types are here, too."""

DOWNLOAD_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, *HUB_ERRORS)
"""What a download from there raises."""
_CONFIG_ERRORS: tuple[type[Exception], ...] = (StorageError, *DOWNLOAD_ERRORS)


def find_folder(recipe: Recipe) -> tuple[str, str | None]:
    """Return the local folder with the files of the model, and the commit if it came from the hub.

    Raises:
        ModelError: there is no such folder, the hub or S3 does not give it, or a folder has a revision.
    """
    if folder := local_folder(recipe):
        return folder, None
    if storage.is_s3(recipe.source):
        return _copy(recipe), None
    folder = _download(recipe)
    return folder, os.path.basename(folder)


def local_folder(recipe: Recipe) -> str | None:
    """Return the folder that a recipe names, if it is one of this machine and neither in S3 nor a hub id.

    Raises:
        ModelError: there is no such folder, or a folder has a revision.
    """
    source = os.path.expanduser(recipe.source)
    if (storage.is_s3(source) or os.path.isdir(source)) and recipe.revision:
        raise ModelError(f"--revision {recipe.revision}: only a hub id has one, {recipe.source} is a folder")
    if storage.is_s3(source):
        return None
    if os.path.isdir(source):
        return source
    if os.path.isabs(source) or source.startswith(".") or source.count("/") > 1:
        is_file = os.path.isfile(source)
        raise ModelError(
            f"--model_directory {recipe.source}: "
            + ("is a file; expected the folder that holds it" if is_file else "there is no such folder")
        )
    return None


def _download(recipe: Recipe) -> str:
    patterns = ["*.json", "model*.safetensors", *TOKENIZER_FILES]
    patterns += ["pytorch_model*.bin"] if recipe.allow_pickle_weights else []
    patterns += ["*.py"] if recipe.trust_remote_code else []
    try:
        return huggingface_hub.snapshot_download(
            recipe.source, revision=recipe.revision, allow_patterns=patterns
        )
    except DOWNLOAD_ERRORS as exc:
        raise ModelError(
            f"--model_directory {recipe.source}: neither a folder here nor a hub id that can be fetched: "
            f"{one_line(exc)}"
        ) from exc


def find_config(recipe: Recipe) -> dict[str, Any]:
    """Return the config.json of a model that may be here, in S3 or on the hub, without fetching the rest.

    Raises:
        ModelError: as `find_folder`, or it is missing or broken.
    """
    source = recipe.source
    if folder := local_folder(recipe):
        return read_config(folder, source)
    try:
        if storage.is_s3(source):
            text = storage.read_text(f"{storage.folder_path(source, '--model_directory')}/config.json")
            if text is None:
                raise _no_config(source)
            return parse_object(text)
        path = huggingface_hub.hf_hub_download(source, "config.json", revision=recipe.revision)
        return read_object(path)
    except _CONFIG_ERRORS as exc:
        raise ModelError(f"--model_directory {source}: config.json cannot be read: {one_line(exc)}") from exc


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

        try:
            config = parse_object(read("config.json"))
        except ValueError as exc:
            raise ModelError(f"--model_directory {source}: config.json {one_line(exc)}") from exc
        weights = choose_weights(files, read, config, recipe)
        suffixes = (".json", ".py") if recipe.trust_remote_code else (".json",)
        wanted = {name for name in files if name.endswith(suffixes) or name in TOKENIZER_FILES}.union(weights)
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
        return read_object(os.path.join(folder, "config.json"))
    except FileNotFoundError as exc:
        raise _no_config(source) from exc
    except (OSError, ValueError) as exc:
        raise ModelError(f"--model_directory {source}: config.json {one_line(exc)}") from exc


def read_object(path: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        OSError, ValueError: it cannot be read, or holds none; a ValueError's text says what is wrong with it.
    """
    with open(path, encoding="utf-8") as file:
        return parse_object(file.read())


def parse_object(text: str) -> dict[str, Any]:
    """Do the same for the file's text.

    Raises:
        ValueError: as `read_object`.
    """
    if storage.is_lfs_pointer(text[:64].encode()):
        raise ValueError(f"is {storage.LFS_POINTER}")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"cannot be read: {exc}") from exc
    if not isinstance(values, dict):
        raise ValueError("is not an object")
    return values


def _no_config(source: str) -> ModelError:
    return ModelError(
        f"--model_directory {source}: no config.json in it; expected a folder in Hugging Face layout "
        "(config.json, model.safetensors, preprocessor_config.json)"
    )
