"""Which network class is the text tower of a model family, and how its texts are padded and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from spark_embed.errors import ModelError


@dataclass(frozen=True)
class TextFamily:
    """How one model family gives a text's vector.

    Attributes:
        output: what the vector is, in words.
        network: transformers class to load.
        embedding: model outputs -> (n, dim).
        padding: as plain transformers' documentation has it: SigLIP was trained with full length only, and
            without a mask; CLIP's causal mask makes what follows the text's end irrelevant.
        scores: of an image among texts, as it was trained: shares of 1 (softmax), or each text by itself
            (sigmoid, which takes a bias as well).
        network_options: config.json -> further arguments of the class.
    """

    output: str
    network: str
    embedding: Callable[[Any], Any]
    padding: Literal["longest", "max_length"]
    scores: Literal["softmax", "sigmoid"]
    network_options: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: {}


_CLIP = TextFamily(
    "projected text features",
    "CLIPTextModelWithProjection",
    lambda outputs: outputs.text_embeds,
    "longest",
    "softmax",
    # As of images: a whole CLIP's own projection_dim counts, not that of its text_config.
    lambda config: {"projection_dim": config.get("projection_dim", 512)},
)
_SIGLIP = TextFamily(
    "text features (last token)",
    "SiglipTextModel",
    lambda outputs: outputs.pooler_output,
    "max_length",
    "sigmoid",
)
_SIGLIP2 = TextFamily(
    "text features (last token)",
    "Siglip2TextModel",
    lambda outputs: outputs.pooler_output,
    "max_length",
    "sigmoid",
)

TEXT_FAMILIES = {"clip": _CLIP, "siglip": _SIGLIP, "siglip2": _SIGLIP2}
"""By the `model_type` of config.json."""


def find_text_family(model_type: object, flag: str, source: str) -> TextFamily:
    """Return the family of a `model_type`.

    Args:
        model_type: of config.json.
        flag: that asks for texts.
        source: of the model.

    Raises:
        ModelError: it has no text tower that is known here.
    """
    family = TEXT_FAMILIES.get(str(model_type))
    if family is None:
        raise ModelError(
            f"{flag}: --model_directory {source}: its model_type {model_type!r} has no text tower that can "
            f"be used here; those that have: {', '.join(TEXT_FAMILIES)}"
        )
    return family
