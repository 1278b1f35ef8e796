"""Which network class a model family loads and which of its outputs is the embedding.

The table of models in docs/models.md is made from `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spark_embed.errors import ModelError


def _image_embeds(outputs: Any) -> Any:
    return outputs.image_embeds


def _pooler_output(outputs: Any) -> Any:
    if outputs.pooler_output is None:
        raise ValueError("the network gives no pooled features; config.json leaves them out")
    return outputs.pooler_output.flatten(start_dim=1)


def _cls_token(outputs: Any) -> Any:
    return outputs.last_hidden_state[:, 0]


@dataclass(frozen=True)
class Family:
    """How one model family gives an image's vector.

    Attributes:
        title: the name in that table.
        output: what the vector is, in words.
        dim: where its size comes from in the model's config.json.
        network: transformers class to load.
        embedding: model outputs -> (n, dim); ValueError where the outputs hold no such thing.
        network_options: config.json -> further arguments of the class, such as leaving out an unused head.
        has_shared_body: a classification head stands on the network that gives the vector, so that one pass
            gives both.
    """

    title: str
    output: str
    dim: str
    network: str
    embedding: Callable[[Any], Any]
    network_options: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: {}
    has_shared_body: bool = True


@dataclass
class Checkpoint:
    """A model as transformers loads it.

    Attributes:
        network: torch.nn.Module, in evaluation mode, float32, on the CPU.
        processor: its own image processor, the PIL backend where there is one.
        name: short name for people: of a folder here its own, else hub id or URI.
        revision: commit of a hub id, None for a folder.
        labels: names of the outputs of its classification head, in order; none without one.
        is_multi_label: each of them has a probability of its own (sigmoid, not softmax).
    """

    network: Any
    processor: Any
    family: Family
    name: str
    revision: str | None
    weights_sha256: str
    labels: tuple[str, ...] = ()
    is_multi_label: bool = False


def _clip_options(config: dict[str, Any]) -> dict[str, Any]:
    # A whole CLIP projects to its own projection_dim, whatever its vision_config says (many say the
    # default, 512); the vision model alone would believe its vision_config.
    return {"projection_dim": config.get("projection_dim", 512)} if "vision_config" in config else {}


_CLIP = Family(
    "CLIP",
    "projected image features",
    "projection_dim",
    "CLIPVisionModelWithProjection",
    _image_embeds,
    _clip_options,
    has_shared_body=False,
)
_SIGLIP = Family(
    "SigLIP",
    "image features (attention pooling)",
    "hidden_size",
    "SiglipVisionModel",
    _pooler_output,
    has_shared_body=False,
)
_SIGLIP2 = Family(
    "SigLIP 2",
    "image features (attention pooling)",
    "hidden_size",
    "Siglip2VisionModel",
    _pooler_output,
    has_shared_body=False,
)
_DINOV2 = Family("DINOv2", "CLS token after the last layer norm", "hidden_size", "AutoModel", _cls_token)
# Many ViT checkpoints were trained as classifiers and have no weights for the pooler.
_VIT = Family(
    "ViT",
    "CLS token after the last layer norm",
    "hidden_size",
    "AutoModel",
    _cls_token,
    lambda config: {"add_pooling_layer": False},
)
_CONVNEXT = Family("ConvNeXt", "globally pooled features", "hidden_sizes[-1]", "AutoModel", _pooler_output)
_RESNET = Family("ResNet", "globally pooled features", "hidden_sizes[-1]", "AutoModel", _pooler_output)
_SWIN = Family(
    "Swin", "mean of the last tokens", "embed_dim * 2 ** (stages - 1)", "AutoModel", _pooler_output
)
_TIMM = Family(
    "timm", "pooled features before the classifier", "num_features", "TimmWrapperModel", _pooler_output
)

FAMILIES: dict[str, Family] = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "siglip2": _SIGLIP2,
    "siglip2_vision_model": _SIGLIP2,
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
    "vit": _VIT,
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT,
    "resnet": _RESNET,
    "swin": _SWIN,
    "swinv2": _SWIN,
    "timm_wrapper": _TIMM,
}
"""By the `model_type` of config.json. SigLIP 2's fixed-resolution checkpoints call themselves siglip."""


def find_family(model_type: str, source: str) -> Family:
    """Return the family of a `model_type`.

    Raises:
        ModelError: not a vision model, or a family that has not been checked against transformers.
    """
    if model_type not in FAMILIES:
        raise ModelError(
            f"--model_directory {source}: its model_type {model_type!r} is not that of a vision model that "
            f"can be used here; supported: {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


def models_table() -> str:
    """Return the table of docs/models.md, as Markdown."""
    lines = ["| family | `model_type` | the vector is | its size |", "|---|---|---|---|"]
    for family in dict.fromkeys(FAMILIES.values()):
        types = ", ".join(f"`{name}`" for name, other in FAMILIES.items() if other is family)
        lines.append(f"| {family.title} | {types} | {family.output} | `{family.dim}` |")
    return "\n".join(lines)
