"""A recipe's source -> network, processor and the hash of the weights, by transformers.

Safetensors only and no remote code, unless the recipe says so. A network with a weight that the
checkpoint does not hold is refused: transformers would fill it with random numbers.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file

from spark_embed.errors import ModelError, one_line
from spark_embed.models import Recipe
from spark_embed.models.folder import HUB_ERRORS, find_folder, find_weights, hash_files, read_config
from spark_embed.models.registry import EMBEDDED_MODEL
from spark_embed.models.vision.efficientnet_lite0 import open_embedded
from spark_embed.models.vision.families import FAMILIES, Checkpoint, find_family
from spark_embed.storage import is_s3

LIBRARY_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    ImportError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
    *HUB_ERRORS,
)
"""What transformers, safetensors and torch raise on files that are broken or of another network."""

# Of timm.create_model: these read further files, or reach for the network.
_TIMM_ARGUMENTS_REFUSED = re.compile(r".*(pretrained|checkpoint|cache).*")


def open_checkpoint(recipe: Recipe) -> Checkpoint:
    """Load the network and the processor that a recipe names (slow).

    Raises:
        ModelError: missing, empty, not a vision model, pickled weights, weights that do not fit.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if recipe.source == EMBEDDED_MODEL:
        if recipe.revision:
            raise ModelError(
                f"--revision {recipe.revision}: only a hub id has one, and without --model_directory the "
                "embedded model runs"
            )
        return open_embedded()
    folder, revision = find_folder(recipe)
    config = read_config(folder, recipe.source)
    family = find_family(_model_type(config), recipe.source)
    weights = find_weights(folder, recipe)
    try:
        if family is FAMILIES["timm_wrapper"]:
            _check_timm_config(config)
            network, missing = _load_timm_network(folder, weights)
        else:
            network, missing = _load_network(folder, family.network, family.network_options(config), recipe)
        network, weights_sha256 = network.float().eval(), hash_files(weights)
    except LIBRARY_ERRORS as exc:
        raise ModelError(f"--model_directory {recipe.source}: cannot be loaded: {one_line(exc)}") from exc
    if missing:
        raise ModelError(
            f"--model_directory {recipe.source}: the weights lack {len(missing)} of the network's tensors or "
            f"have them in another shape ({', '.join(missing[:3])}); are they of this model?"
        )
    return Checkpoint(
        network=network,
        processor=load_processor(folder, recipe),
        family=family,
        name=_name(recipe, folder, revision),
        revision=revision,
        weights_sha256=weights_sha256,
    )


def _name(recipe: Recipe, folder: str, revision: str | None) -> str:
    is_elsewhere = revision is not None or is_s3(recipe.source)
    return recipe.source if is_elsewhere else os.path.basename(os.path.normpath(folder))


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
    except LIBRARY_ERRORS as exc:
        raise ModelError(
            f"--model_directory {recipe.source}: its image processor cannot be loaded from "
            f"preprocessor_config.json: {one_line(exc)}"
        ) from exc


def _model_type(config: dict[str, Any]) -> str:
    if "model_type" not in config and "architecture" in config:
        return "timm_wrapper"
    return str(config.get("model_type"))


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


def _check_timm_config(config: dict[str, Any]) -> None:
    """Refuse what would make timm fetch a network or open files elsewhere: "hf-hub:...", "local-dir:...".

    Raises:
        ValueError: the architecture is none of timm's own, or its arguments name weights.
    """
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or not re.fullmatch(r"[\w.-]+", architecture):
        raise ValueError(f"config.json: architecture {architecture!r} is not the name of a timm network")
    refused = [name for name in config.get("model_args") or {} if _TIMM_ARGUMENTS_REFUSED.fullmatch(name)]
    if refused:
        raise ValueError(f"config.json: model_args may not hold {', '.join(refused)}: weights come from here")


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
