"""What the files of a model's folder tell before torch is imported; knows no network.

The driver asks, before it starts Spark, and every worker does, before it loads the model.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from spark_embed.errors import ModelError, one_line
from spark_embed.models import Recipe
from spark_embed.models.directory.contract import is_config_of_code, untrusted
from spark_embed.models.folder import find_config, local_folder, read_config, read_object
from spark_embed.models.registry import EMBEDDED_MODEL
from spark_embed.models.vision.families import FAMILIES, Family, find_family
from spark_embed.models.vision.labels import check_head, is_classifier
from spark_embed.models.weights import find_weights

# Where transformers looks for the processor's settings; timm's are in config.json.
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")

# Of timm.create_model: these read further files, or reach for the network.
_TIMM_ARGUMENTS_REFUSED = re.compile(r".*(pretrained|checkpoint|cache).*")


@dataclass(frozen=True)
class ModelFiles:
    """A folder that can be loaded, as far as its files tell.

    Attributes:
        config: its config.json.
        weights: paths of all that is loaded, and hashed.
    """

    config: dict[str, Any]
    family: Family
    weights: list[str]


def read_files(folder: str, recipe: Recipe, *, has_head: bool = False) -> ModelFiles:
    """Look at the files of a folder on this machine; with `has_head`, at what they say of its labels, too.

    Raises:
        ModelError: one is missing or broken, or they are of no vision model that can be used.
    """
    config = read_config(folder, recipe.source)
    if is_config_of_code(config):  # the driver, which chose this kind, has not seen it
        raise ModelError(
            untrusted(recipe.source)
            if not recipe.trust_remote_code
            else f"--model_directory {recipe.source}: holds code of its own, and the driver, which chooses "
            "how a model runs, cannot see that: it needs to reach the folder, too"
        )
    is_timm = "model_type" not in config and "architecture" in config
    family = find_family("timm_wrapper" if is_timm else str(config.get("model_type")), recipe.source)
    if family is FAMILIES["timm_wrapper"]:
        _check_timm_config(config, recipe)
    else:
        _check_processor(folder, recipe)
    if has_head:
        check_head(config, family, recipe)
    return ModelFiles(config, family, find_weights(folder, config, recipe))


def check_files(recipe: Recipe, *, has_head: bool = False) -> None:
    """Look at a model's files, if they are on this machine; what the hub or S3 has is seen by the workers.

    Raises:
        ModelError: they cannot be used.
    """
    check_revision(recipe)
    if recipe.source != EMBEDDED_MODEL and (folder := local_folder(recipe)):
        read_files(folder, recipe, has_head=has_head)


def check_classifier_files(recipe: Recipe) -> None:
    """Do the same for a classifier.

    Raises:
        ModelError: as `check_files`, or they are of no classifier.
    """
    check_files(recipe, has_head=True)


def is_classifier_folder(source: str | None, revision: str | None) -> bool:
    """Say whether a model calls itself a classifier; wherever it is, its config.json alone is read.

    The embedded one, which can do both, does not.

    Raises:
        ModelError: it cannot be read.
    """
    return source not in (None, EMBEDDED_MODEL) and is_classifier(find_config(Recipe(str(source), revision)))


def check_revision(recipe: Recipe) -> None:
    """Refuse a revision of the embedded model.

    Raises:
        ModelError: there is one.
    """
    if recipe.revision and recipe.source == EMBEDDED_MODEL:
        raise ModelError(
            f"--revision {recipe.revision}: only a hub id has one, and without --model_directory the "
            "embedded model runs"
        )


def _check_processor(folder: str, recipe: Recipe) -> None:
    where = f"--model_directory {recipe.source}: its image processor cannot be loaded from "
    there = [name for name in _PROCESSOR_FILES if os.path.lexists(os.path.join(folder, name))]
    if not there:
        raise ModelError(f"{where}{_PROCESSOR_FILES[0]}: there is no such file")
    for name in there:
        try:
            read_object(os.path.join(folder, name))
        except (OSError, ValueError) as exc:
            raise ModelError(f"{where}{name}: {one_line(exc)}") from exc


def _check_timm_config(config: dict[str, Any], recipe: Recipe) -> None:
    """Refuse what would make timm fetch a network or open files elsewhere: "hf-hub:...", "local-dir:..."."""
    where = f"--model_directory {recipe.source}: cannot be loaded: config.json:"
    architecture, arguments = config.get("architecture"), config.get("model_args") or {}
    if not isinstance(architecture, str) or not re.fullmatch(r"[\w.-]+", architecture):
        raise ModelError(f"{where} architecture {architecture!r} is not the name of a timm network")
    if not isinstance(arguments, dict):
        raise ModelError(f"{where} model_args is not an object")
    refused = [name for name in arguments if _TIMM_ARGUMENTS_REFUSED.fullmatch(name)]
    if refused:
        raise ModelError(f"{where} model_args may not hold {', '.join(refused)}: weights come from here")
