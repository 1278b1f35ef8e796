"""Networks that a state dict can be loaded into, by the names that a config.json gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from spark_embed.errors import ModelError

_ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class Scaled(nn.Module):
    """(x - mean) / std, by feature; both are part of the state dict."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("std", torch.ones(n_features))

    mean: torch.Tensor
    std: torch.Tensor

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Scale rows, (n, features)."""
        return (rows - self.mean) / self.std


class Perceptron(nn.Sequential):
    """Scaled features, linear layers, and an activation between them.

    The names in its state dict are those of the modules in order: "0.mean", "1.weight", ...
    """

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the output of rows, (n, outputs).

        Of a small batch half of the time would be spent in the modules' own calls.
        """
        scaled, *layers, last = self
        rows = scaled.forward(rows)
        for layer in layers:
            rows = layer.forward(rows)
        output: torch.Tensor = last.forward(rows)
        return output


def make_mlp(n_features: int, hidden: list[int], n_outputs: int, activation: str) -> Perceptron:
    """Return a perceptron with hidden layers over scaled features: (n, features) -> (n, outputs)."""
    layers: list[nn.Module] = [Scaled(n_features)]
    n_in = n_features
    for n_out in hidden:
        layers += [nn.Linear(n_in, n_out), _ACTIVATIONS[activation]()]
        n_in = n_out
    return Perceptron(*layers, nn.Linear(n_in, n_outputs))


def make_network(given: Any, n_features: int, where: str) -> nn.Module:
    """Return the network that a config.json's "architecture" names, its weights not loaded.

    Raises:
        ModelError: there is none of that name, or its values are wrong.
    """
    shape = '{"name": "mlp", "hidden": [32, 16], "n_outputs": 1, "activation": "relu"}'
    if not isinstance(given, dict) or given.get("name") != "mlp":
        raise ModelError(
            f"{where}: a state dict needs an architecture in config.json: {shape}, not {given!r}"
        )
    hidden, n_outputs = given.get("hidden", []), given.get("n_outputs", 1)
    activation = given.get("activation", "relu")
    is_right = isinstance(hidden, list) and all(isinstance(n, int) and n > 0 for n in [*hidden, n_outputs])
    if not is_right or activation not in _ACTIVATIONS:
        raise ModelError(f"{where}: architecture {given!r} must look like {shape}")
    return make_mlp(n_features, hidden, n_outputs, activation)
