"""A vision network by transformers alone: its own processor, float32, nothing folded; parity's reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from spark_embed.models import Compared, Inputs, Prepared
from spark_embed.models.vision.network import VisionNetwork

# ViT-B/32 in float32 on one core: 0.10 s an image with 4 at once, as with 16; 0.13 s one by one.
_REFERENCE_ROWS = 4


class PlainTransformers:
    """The network of a model; implements `spark_embed.models.ReferenceModel`."""

    def __init__(self, network: VisionNetwork, make: Callable[[Compared], Compared]) -> None:
        """Stand beside a loaded network.

        Args:
            network: the run's.
            make: the outputs by name, each float32 (n, dim) -> the columns that are compared.
        """
        self._network = network
        self._make = make

    def prepare(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """See `ReferenceModel.prepare`; by the processor's PIL backend where there is one."""
        return self._network.process(inputs.image)

    def difference(self, prepared: Prepared, reference: dict[str, torch.Tensor]) -> float | None:
        """See `ReferenceModel.difference`; None where the processor prepares the run's own images, too."""
        if self._network.preprocessing is None:
            return None
        expected = self._network.preprocessing.grey_levels(reference["pixel_values"])[0]
        return round(float((prepared.float() - expected).abs().max()), 3)

    def predict(self, batch: Sequence[dict[str, torch.Tensor]]) -> Compared:
        """See `ReferenceModel.predict`."""
        network, recipe = self._network, self._network.recipe
        if recipe.dtype != "float32" or network.n_folded or recipe.compile_rows:
            plain = replace(recipe, dtype="float32", compile_rows=None)
            network = VisionNetwork(plain, network.wanted, fold=False)
        items = [{name: values[0] for name, values in item.items()} for item in batch]
        pieces = [items[start : start + _REFERENCE_ROWS] for start in range(0, len(items), _REFERENCE_ROWS)]
        with torch.inference_mode():
            outputs = [network.forward_by_shape(piece) for piece in pieces]
        return self._make(
            {name: torch.cat([one[name] for one in outputs]).numpy() for name in network.wanted}
        )
