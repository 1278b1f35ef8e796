"""The files of a model of tables: its config.json and the one file of the model, as the driver sees them.

Imports no framework: the driver looks at a model before Spark starts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from spark_embed import storage
from spark_embed.config import ModelOptions
from spark_embed.errors import ConfigError, ModelError, StorageError, one_line
from spark_embed.models import Recipe
from spark_embed.models.folder import parse_object
from spark_embed.models.local_copy import copy_folder
from spark_embed.models.tabular.formats import find_format
from spark_embed.models.tabular.signature import Signature, read_signature

CONFIG_FILE = "config.json"
_MODEL_NAMES = ("model.safetensors", "model.onnx", "model.pt2", "model.pt", "model.pth")
"""Without "weights" in config.json the first of these that is there."""


@dataclass(frozen=True)
class TabularFiles:
    """A model on this machine.

    Attributes:
        folder: its path.
        config: its config.json.
        weights: path of the model itself.
    """

    folder: str
    config: dict[str, Any]
    weights: str


def read_options(options: ModelOptions) -> tuple[tuple[str, str], ...]:
    """Return the signature, with --threshold in it, and the architecture, both as text; driver only.

    Raises:
        ConfigError: no model is named, or more than one.
        ModelError: its config.json cannot be used.
    """
    if len(options.model_directories) != 1:
        raise ConfigError(
            "--task predict: --model_directory must name one model: a folder with config.json, or a file "
            f"beside one (given: {options.model_directory or 'none'}; `make tabular-example` makes one)"
        )
    source = options.model_directories[0]
    config = read_config(source)
    signature = read_signature(config, f"--model_directory {source}: {CONFIG_FILE}")
    if options.threshold is not None:
        if signature.kind != "binary":
            raise ConfigError(f"--threshold: is for two classes, and this model's output is {signature.kind}")
        signature = replace(signature, threshold=options.threshold)
    architecture = json.dumps(config.get("architecture"), sort_keys=True)
    return (("signature", signature.to_json()), ("architecture", architecture))


def signature_of(options: ModelOptions) -> Signature:
    """Return the signature of the model that the options name; as `read_options`."""
    return Signature.from_json(dict(read_options(options))["signature"])


def check_files(recipe: Recipe) -> None:
    """Look at the model before Spark starts; one in S3 the workers look at.

    Raises:
        ModelError: it cannot be used.
    """
    if recipe.revision:
        raise ModelError(f"--revision {recipe.revision}: a model of tables is a folder, which has none")
    if recipe.dtype != "auto":
        raise ModelError(
            f"--dtype {recipe.dtype}: a model of tables runs in that of its signature; leave it out"
        )
    if recipe.compile_rows:
        raise ModelError("--compile true: not for models of tables; leave it out")
    if not storage.is_s3(recipe.source):
        find_files(recipe)


def find_files(recipe: Recipe) -> TabularFiles:
    """Return the files of a recipe's model, fetched if they are in S3.

    Raises:
        ModelError: they cannot be used: a pickle, or an exported program that nobody said to trust.
    """
    folder, name = _split(recipe.source)
    config = read_config(recipe.source)
    where = f"--model_directory {recipe.source}"
    try:
        if storage.is_s3(folder):
            files = {file.path: file for file in storage.list_folder(folder)}
            chosen = _choose(name, config, files, where)
            folder = copy_folder(folder, [files[CONFIG_FILE], files[chosen]])
        else:
            chosen = _choose(name, config, os.listdir(folder), where)
        path = os.path.join(folder, chosen)
        if find_format(path, f"{where}: {chosen}") == "torch_export" and not recipe.trust_remote_code:
            raise ModelError(
                f"{where}: {chosen}: an exported program is evaluated when it is loaded, so it can run code: "
                "--trust_remote_code where you trust it, or save it as TorchScript, ONNX or a state dict"
            )
    except (OSError, StorageError) as exc:
        raise ModelError(f"{where}: cannot be read: {one_line(exc)}") from exc
    return TabularFiles(folder, config, path)


def read_config(source: str) -> dict[str, Any]:
    """Return the config.json of a folder, or beside a file.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    where = f"--model_directory {source}"
    if not storage.is_s3(source) and not os.path.exists(os.path.expanduser(source)):
        raise ModelError(f"{where}: there is no such folder or file")
    folder, _ = _split(source)
    try:
        with storage.impatient():
            text = storage.read_text(f"{folder}/{CONFIG_FILE}")
        if text is None:
            raise ModelError(
                f"{where}: no {CONFIG_FILE} in {folder}, which says what columns the model takes"
            )
        return parse_object(text)
    except (OSError, StorageError, ValueError) as exc:
        raise ModelError(f"{where}: {CONFIG_FILE} {one_line(exc)}") from exc


def _split(source: str) -> tuple[str, str | None]:
    """Return the folder, and the name of the file in it if the source names one."""
    if storage.is_s3(source):
        folder = storage.folder_path(source, "--model_directory")
        is_file = os.path.splitext(folder)[1] in {os.path.splitext(name)[1] for name in _MODEL_NAMES}
        return (os.path.dirname(folder), os.path.basename(folder)) if is_file else (folder, None)
    path = os.path.abspath(os.path.expanduser(source))
    return (path, None) if os.path.isdir(path) else (os.path.dirname(path), os.path.basename(path))


def _choose(name: str | None, config: dict[str, Any], names: Collection[str], where: str) -> str:
    wanted = name or config.get("weights")
    if wanted is None:
        found = next((one for one in _MODEL_NAMES if one in names), None)
        if found is None:
            raise ModelError(
                f"{where}: holds no model: one of {', '.join(_MODEL_NAMES)}, or config.json's weights"
            )
        return found
    if not isinstance(wanted, str) or os.path.basename(wanted) != wanted or wanted not in names:
        raise ModelError(f"{where}: config.json's weights {wanted!r} is no file in the folder")
    return wanted
