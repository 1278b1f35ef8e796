"""A recipe's source -> network, processor and the hash of the weights, by transformers.

Safetensors only and no remote code, unless the recipe says so. A network with a weight that the
checkpoint does not hold is refused: transformers would fill it with random numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file

from spark_embed.errors import ModelError
from spark_embed.models import EMBEDDED_MODEL, Recipe
from spark_embed.models.families import FAMILIES, Family, find_family

# One file, or numbered ones.
_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_PICKLED = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
_PICKLE_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")
_HASH_CHUNK_BYTES = 1 << 22

# What transformers, safetensors and torch raise on files that are broken or of another network.
_LOAD_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    ImportError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
)


@dataclass
class Checkpoint:
    """A model as transformers loads it.

    Attributes:
        network: in evaluation mode, float32, on the CPU.
        processor: its own image processor, the PIL backend where there is one.
        name: short name for people.
        revision: commit of a hub id, None for a folder.
    """

    network: torch.nn.Module
    processor: Any
    family: Family
    name: str
    revision: str | None
    weights_sha256: str


def open_checkpoint(recipe: Recipe) -> Checkpoint:
    """Load the network and the processor that a recipe names (slow).

    Raises:
        ModelError: missing, empty, not a vision model, pickled weights, weights that do not fit.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if recipe.source == EMBEDDED_MODEL:
        from spark_embed.models.efficientnet_lite0 import open_embedded

        return open_embedded()
    folder, revision = _find_folder(recipe)
    config = _read_config(folder, recipe.source)
    family = find_family(_model_type(config), recipe.source)
    weights = _find_weights(folder, recipe)
    try:
        if family is FAMILIES["timm_wrapper"]:
            network, missing = _load_timm_network(folder, weights)
        else:
            network, missing = _load_network(folder, family.network, family.network_options(config), recipe)
    except _LOAD_ERRORS as exc:
        raise ModelError(f"--model_directory {recipe.source}: cannot be loaded: {_one_line(exc)}") from exc
    if missing:
        raise ModelError(
            f"--model_directory {recipe.source}: the weights lack {len(missing)} of the network's tensors or "
            f"have them in another shape ({', '.join(missing[:3])}); are they of this model?"
        )
    return Checkpoint(
        network=network.float().eval(),
        processor=load_processor(folder, recipe),
        family=family,
        name=os.path.basename(os.path.normpath(recipe.source)) if revision is None else recipe.source,
        revision=revision,
        weights_sha256=hash_files(weights),
    )


def hash_files(paths: Sequence[str]) -> str:
    """Return the sha256, in hex, of the files one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(_HASH_CHUNK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def load_processor(folder: str, recipe: Recipe) -> Any:
    """Load the image processor of a folder: the PIL backend, which is the reference, where there is one.

    Raises:
        ModelError: the folder has no preprocessing configuration, or one that cannot be read.
    """
    pil = {"backend": "pil"} if int(transformers.__version__.split(".")[0]) >= 5 else {"use_fast": False}
    try:
        return transformers.AutoImageProcessor.from_pretrained(
            folder, trust_remote_code=recipe.trust_remote_code, **pil
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as exc:
        raise ModelError(
            f"--model_directory {recipe.source}: its image processor cannot be loaded from "
            f"preprocessor_config.json: {_one_line(exc)}"
        ) from exc


def _find_folder(recipe: Recipe) -> tuple[str, str | None]:
    """Return the local folder with the files of the model, and the commit if it came from the hub."""
    source = os.path.expanduser(recipe.source)
    if os.path.isdir(source):
        if recipe.revision:
            raise ModelError(
                f"--revision {recipe.revision}: only a hub id has one, {recipe.source} is a folder"
            )
        return source, None
    if os.path.isabs(source) or source.startswith(".") or source.count("/") > 1:
        raise ModelError(f"--model_directory {recipe.source}: there is no such folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "model*.safetensors"]
    patterns += ["pytorch_model*.bin"] if recipe.allow_pickle_weights else []
    patterns += ["*.py"] if recipe.trust_remote_code else []
    try:
        folder = snapshot_download(recipe.source, revision=recipe.revision, allow_patterns=patterns)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as exc:
        raise ModelError(
            f"--model_directory {recipe.source}: neither a folder here nor a hub id that can be fetched: "
            f"{_one_line(exc)}"
        ) from exc
    return folder, os.path.basename(folder)


def _read_config(folder: str, source: str) -> dict[str, Any]:
    path = os.path.join(folder, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except FileNotFoundError as exc:
        raise ModelError(
            f"--model_directory {source}: no config.json in it; expected a folder in Hugging Face layout "
            "(config.json, model.safetensors, preprocessor_config.json)"
        ) from exc
    except (OSError, ValueError) as exc:
        raise ModelError(f"--model_directory {source}: config.json cannot be read: {_one_line(exc)}") from exc
    if not isinstance(config, dict):
        raise ModelError(f"--model_directory {source}: config.json is not an object")
    return config


def _model_type(config: dict[str, Any]) -> str:
    if "model_type" not in config and "architecture" in config:
        return "timm_wrapper"
    return str(config.get("model_type"))


def _find_weights(folder: str, recipe: Recipe) -> list[str]:
    """Return the files that will be loaded; a repository may hold others, of open_clip for example."""
    names = sorted(os.listdir(folder))
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
    return [os.path.join(folder, name) for name in weights]


def _load_network(
    folder: str, class_name: str, options: dict[str, Any], recipe: Recipe
) -> tuple[torch.nn.Module, list[str]]:
    """Return the network and the names of its tensors that the weights do not fit."""
    network, report = getattr(transformers, class_name).from_pretrained(
        folder,
        use_safetensors=None if recipe.allow_pickle_weights else True,
        trust_remote_code=recipe.trust_remote_code,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported instead, with their names
        **options,
    )
    # names up to transformers 4, (name, shape, shape) from 5 on
    mismatched = {key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]}
    return network, sorted(mismatched.union(report["missing_keys"]))


def _load_timm_network(folder: str, weights: Sequence[str]) -> tuple[torch.nn.Module, list[str]]:
    """Do the same for a timm folder.

    Not by from_pretrained: transformers 4 builds the network without memory, and then has nothing for the
    buffers that a checkpoint does not hold, such as Swin's position index.
    """
    network = transformers.TimmWrapperModel(transformers.TimmWrapperConfig.from_pretrained(folder))
    state: dict[str, torch.Tensor] = {}
    for path in weights:
        if path.endswith(".safetensors"):
            state |= load_file(path)
        else:
            state |= torch.load(path, map_location="cpu", weights_only=True)
    state = {name.removeprefix("timm_model."): tensor for name, tensor in state.items()}
    report = network.timm_model.load_state_dict(state, strict=False)
    return network, sorted(report.missing_keys)


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300]
