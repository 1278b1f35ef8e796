"""A recipe's source -> network, processor and the hash of the weights, by transformers.

Safetensors only and no remote code, unless the recipe says so. A network with a weight that the
checkpoint does not hold is refused: transformers would fill it with random numbers.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from spark_embed.errors import ModelError, one_line
from spark_embed.models import Recipe
from spark_embed.models.folder import HUB_ERRORS, find_folder
from spark_embed.models.registry import EMBEDDED_MODEL
from spark_embed.models.vision.efficientnet_lite0 import open_embedded
from spark_embed.models.vision.families import FAMILIES, Checkpoint
from spark_embed.models.vision.files import ModelFiles, check_revision, read_files
from spark_embed.models.vision.labels import NO_HEAD, order_labels, read_labels
from spark_embed.models.weights import hashed
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


def open_checkpoint(recipe: Recipe, *, has_head: bool = False) -> Checkpoint:
    """Load the network and the processor that a recipe names (slow); with `has_head`, one that classifies.

    Raises:
        ModelError: missing, empty, not a vision model, pickled weights, weights that do not fit.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    check_revision(recipe)
    if recipe.source == EMBEDDED_MODEL:
        return open_embedded(has_head=has_head)
    folder, revision = find_folder(recipe)
    files = read_files(folder, recipe, has_head=has_head)
    try:
        with hashed(files.weights) as weights_sha256:
            state = load_weights(files.weights)
            network, missing = _load_network(folder, files, recipe, state, has_head=has_head)
    except LIBRARY_ERRORS as exc:
        raise ModelError(f"--model_directory {recipe.source}: cannot be loaded: {one_line(exc)}") from exc
    labels: tuple[str, ...] = ()
    if has_head:
        labels = read_labels(files.config, recipe) or order_labels(
            network.config.id2label, "id2label", recipe
        )
        _check_head_weights(network, missing, state, labels, recipe)
    check_complete(missing, recipe)
    return Checkpoint(
        network=network.float().eval(),
        processor=load_processor(folder, recipe),
        family=files.family,
        name=name_of(recipe, folder, revision),
        revision=revision,
        weights_sha256=weights_sha256.result(),
        labels=labels,
        is_multi_label=has_head and _is_multi_label(network.config),
    )


def check_complete(missing: Sequence[str], recipe: Recipe) -> None:
    """Refuse a network with tensors that the weights do not fit.

    Raises:
        ModelError: there are some.
    """
    if missing:
        raise ModelError(
            f"--model_directory {recipe.source}: the weights lack {len(missing)} of the network's tensors or "
            f"have them in another shape ({', '.join(missing[:3])}); are they of this model?"
        )


def _is_multi_label(config: Any) -> bool:
    """Say whether labels have probabilities of their own, by the rule of transformers' own pipeline."""
    return bool(config.problem_type == "multi_label_classification" or config.num_labels == 1)


def _check_head_weights(
    network: Any,
    missing: Sequence[str],
    state: dict[str, torch.Tensor],
    labels: Sequence[str],
    recipe: Recipe,
) -> None:
    """Tell a head that the weights do not hold, or one for another number of labels.

    Raises:
        ModelError: it is so.
    """
    is_timm = hasattr(network, "timm_model")
    names = network.timm_model.pretrained_cfg["classifier"] if is_timm else "classifier"
    begins = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
    without = [name for name in missing if name.startswith(begins)]
    if not without:
        return
    where = f"--model_directory {recipe.source}: the"
    weight = state.get(without[-1], state.get(f"timm_model.{without[-1]}"))
    if weight is None:
        raise ModelError(f"{where} weights lack {without[-1]}: the model {NO_HEAD}")
    raise ModelError(
        f"{where} head in the weights is for {len(weight):,} labels, and config.json names {len(labels):,} "
        "(id2label, or num_classes)"
    )


def name_of(recipe: Recipe, folder: str, revision: str | None) -> str:
    """Return the short name of a model, for people."""
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


def load_weights(paths: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the tensors of all files; of a name that two of them hold, the last."""
    state: dict[str, torch.Tensor] = {}
    for path in paths:
        if path.endswith(".bin"):
            state |= torch.load(path, map_location="cpu", weights_only=True)
        else:
            state |= load_file(path)
    return state


def _load_network(
    folder: str, files: ModelFiles, recipe: Recipe, state: dict[str, torch.Tensor], *, has_head: bool
) -> tuple[Any, list[str]]:
    """Return the network and the names of its tensors that the weights do not fit."""
    if files.family is FAMILIES["timm_wrapper"]:
        return _load_timm_network(folder, state, has_head=has_head)
    if has_head:
        return load_network(_head_class(folder, files, recipe), folder, state)
    wanted = files.family.network_options(files.config)
    return load_network(_network_class(folder, files, recipe), folder, state, **wanted)


def load_network(
    network_class: Any, folder: str, state: dict[str, torch.Tensor], **wanted: Any
) -> tuple[Any, list[str]]:
    """Return a network of a transformers class, and the names of its tensors that the weights do not fit.

    transformers is given the weights, and looks for no file itself: an index, an adapter or a config.json
    could name others than those that are hashed.

    Args:
        network_class: of the network.
        folder: with its config.json.
        state: the weights.
        wanted: what the configuration should say, or the class is told.
    """
    config, options = network_class.config_class.from_pretrained(folder, return_unused_kwargs=True, **wanted)
    network, report = network_class.from_pretrained(
        None,
        config=config,
        state_dict=state,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported instead, with their names
        **options,
    )
    # names up to transformers 4, (name, shape, shape) from 5 on
    mismatched = {key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]}
    return network, sorted(mismatched.union(report["missing_keys"]))


def _network_class(folder: str, files: ModelFiles, recipe: Recipe) -> Any:
    """Return transformers' class of the network, or the folder's own where it has one that may run."""
    if files.family.network != "AutoModel":
        return getattr(transformers, files.family.network)
    own = files.config.get("auto_map") or {}
    if recipe.trust_remote_code and "AutoModel" in own:
        return get_class_from_dynamic_module(own["AutoModel"], folder)
    return getattr(transformers, MODEL_MAPPING_NAMES[files.config["model_type"]])


def _head_class(folder: str, files: ModelFiles, recipe: Recipe) -> Any:
    """Do the same for a network that classifies.

    Raises:
        ModelError: transformers has none of this family.
    """
    own = files.config.get("auto_map") or {}
    if recipe.trust_remote_code and (name := "AutoModelForImageClassification") in own:
        return get_class_from_dynamic_module(own[name], folder)
    found = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.get(files.config["model_type"])
    if found is None:
        raise ModelError(f"--model_directory {recipe.source}: {files.config['model_type']} {NO_HEAD}")
    return getattr(transformers, found)


def _load_timm_network(
    folder: str, state: dict[str, torch.Tensor], *, has_head: bool
) -> tuple[torch.nn.Module, list[str]]:
    """Do the same for a timm folder.

    Not by from_pretrained: transformers 4 builds the network without memory, and then has nothing for the
    buffers that a checkpoint does not hold, such as Swin's position index.
    """
    wanted = transformers.TimmWrapperForImageClassification if has_head else transformers.TimmWrapperModel
    network = wanted(transformers.TimmWrapperConfig.from_pretrained(folder))
    shapes = {name: tensor.shape for name, tensor in network.timm_model.state_dict().items()}
    found = {name.removeprefix("timm_model."): tensor for name, tensor in state.items()}
    # load_state_dict raises on another shape, strict or not.
    fitting = {name: one for name, one in found.items() if shapes.get(name, one.shape) == one.shape}
    report = network.timm_model.load_state_dict(fitting, strict=False)
    return network, sorted(report.missing_keys)
