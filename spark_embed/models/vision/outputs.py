"""What a forward pass of a vision network gives: the embedding, a head's logits, or both in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from spark_embed.models.vision.families import FAMILIES, Family
from spark_embed.schema import EMBEDDING

LOGITS = "logits"
"""What a classification head gives: a number for each label, before softmax or sigmoid."""

Tensors = Mapping[str, torch.Tensor]
Outputs = dict[str, torch.Tensor]
Forward = Callable[[Tensors], Outputs]
"""Model inputs, each (n, ...) -> outputs by name, each (n, dim)."""


def make_forward(network: torch.nn.Module, family: Family, wanted: tuple[str, ...]) -> Forward:
    """Return what runs `network` once for the outputs that are `wanted`.

    Args:
        network: one with a classification head if `LOGITS` are wanted, else the one that `family` names.
        family: of the network.
        wanted: `LOGITS`, the embedding, or both.
    """
    if LOGITS not in wanted:
        return lambda inputs: {EMBEDDING: family.embedding(network(**inputs))}
    if EMBEDDING not in wanted:
        return lambda inputs: {LOGITS: network(**inputs).logits}
    if family is FAMILIES["timm_wrapper"]:
        return _make_timm_forward(network.timm_model)
    return _make_both(network, family)


def _make_both(network: Any, family: Family) -> Forward:
    """Take the embedding from the outputs of the network below the head, on their way to the head."""
    passed: list[Any] = []
    network.base_model.register_forward_hook(lambda module, inputs, outputs: passed.append(outputs))

    def forward(inputs: Tensors) -> Outputs:
        passed.clear()  # of a pass that did not come to its end
        logits = network(**inputs).logits
        return {LOGITS: logits, EMBEDDING: family.embedding(passed.pop())}

    return forward


def _make_timm_forward(network: Any) -> Forward:
    """Let timm's head pool the features twice, once without its last layer: that costs next to nothing."""

    def forward(inputs: Tensors) -> Outputs:
        features = network.forward_features(inputs["pixel_values"])
        return {
            LOGITS: network.forward_head(features),
            EMBEDDING: network.forward_head(features, pre_logits=True),
        }

    return forward
