"""What the files of a model's text side tell before torch is imported; knows no network.

The driver asks, before it starts Spark, and every worker does, before it loads a text tower.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

from spark_embed.errors import ModelError
from spark_embed.models import Recipe
from spark_embed.models.folder import TOKENIZER_FILES, local_folder, read_config
from spark_embed.models.registry import EMBEDDED_MODEL
from spark_embed.models.text.families import TextFamily, find_text_family
from spark_embed.models.vision.files import check_files, check_revision
from spark_embed.models.weights import find_weights

_VOCABULARIES = ("tokenizer.json", "vocab.json", *TOKENIZER_FILES)
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True)
class TextFiles:
    """The text side of a folder, as far as its files tell.

    Attributes:
        config: its config.json.
        weights: paths of all that is loaded, and hashed.
        tokenizer_sha256: of all that decides how a text is cut into tokens.
    """

    config: dict[str, Any]
    family: TextFamily
    weights: list[str]
    tokenizer_sha256: str


def read_text_files(folder: str, recipe: Recipe) -> TextFiles:
    """Look at the files of a folder on this machine.

    Raises:
        ModelError: one is missing or broken, or they are of no model with texts.
    """
    config = read_config(folder, recipe.source)
    family = find_text_family(config.get("model_type"), flag_of(recipe), recipe.source)
    weights = find_weights(folder, config, recipe)
    return TextFiles(config, family, weights, _hash_tokenizer(folder, recipe))


def flag_of(recipe: Recipe) -> str:
    """Return the flag that asks for texts."""
    return "--labels" if "labels" in dict(recipe.options) else "--text_column"


def _hash_tokenizer(folder: str, recipe: Recipe) -> str:
    where = f"--model_directory {recipe.source}: its tokenizer"
    names = sorted(name for name in (*_VOCABULARIES, *_SETTINGS) if os.path.exists(f"{folder}/{name}"))
    if not set(names).intersection(_VOCABULARIES):
        raise ModelError(f"{where} is missing: the folder has none of {', '.join(_VOCABULARIES)}")
    digest = hashlib.sha256()
    try:
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                content = file.read()
            digest.update(f"{name} {len(content)}\n".encode())
            digest.update(content)
    except OSError as exc:
        raise ModelError(f"{where} cannot be read: {exc}") from exc
    return digest.hexdigest()


def check_text_files(recipe: Recipe) -> None:
    """Look at the files of a model of texts alone, if they are on this machine.

    Raises:
        ModelError: they cannot be used.
    """
    check_revision(recipe)
    if recipe.source == EMBEDDED_MODEL:
        raise ModelError(
            f"{flag_of(recipe)}: the embedded model knows no texts; name a CLIP or SigLIP by "
            "--model_directory, openai/clip-vit-base-patch32 for example"
        )
    if folder := local_folder(recipe):
        read_text_files(folder, recipe)


def check_image_text_files(recipe: Recipe) -> None:
    """Do the same for a model of images and texts.

    Raises:
        ModelError: they cannot be used.
    """
    check_text_files(recipe)
    check_files(recipe)
