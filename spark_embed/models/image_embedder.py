"""Image -> embedding, for every family of transformers vision models: the one `Model` so far."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from spark_embed.errors import ImageError, ModelError
from spark_embed.models import Prediction, Prepared, Recipe
from spark_embed.models.checkpoint import open_checkpoint
from spark_embed.models.device import resolve_device, resolve_dtype
from spark_embed.models.families import FAMILIES
from spark_embed.models.preprocess import read_preprocessing

# transformers 4 guesses where the channels are, wrongly for an image 1 or 3 pixels high.
_CHANNELS_LAST = {"input_data_format": "channels_last"}


class ImageEmbedder:
    """A loaded network with its preprocessing; implements `spark_embed.models.Model`.

    Attributes:
        recipe: the recipe with everything resolved: device, dtype, commit, hash of the weights.
        preprocessing: the fast path, None where the model's own processor prepares the images.
        processor: the model's own transformers processor: the reference.
        embedding_dim: length of a vector.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Load the model (slow; runs once per worker process).

        Raises:
            ModelError: it cannot be loaded, or its weights are not those of `recipe.weights_sha256`.
        """
        checkpoint = open_checkpoint(recipe)
        if recipe.weights_sha256 not in (None, checkpoint.weights_sha256):
            raise ModelError(
                f"--model_directory {recipe.source}: the weights of this worker hash to "
                f"{checkpoint.weights_sha256}, those of the run to {recipe.weights_sha256}; "
                "every worker needs the same model"
            )
        device = resolve_device(recipe.device)
        self.recipe = replace(
            recipe,
            device=device,
            dtype=resolve_dtype(recipe.dtype, device),
            revision=checkpoint.revision,
            weights_sha256=checkpoint.weights_sha256,
        )
        self.name = checkpoint.name
        self.family = checkpoint.family
        self.processor = checkpoint.processor
        self.preprocessing = read_preprocessing(checkpoint.processor)
        self._device = torch.device(device)
        self._dtype: torch.dtype = getattr(torch, self.recipe.dtype)
        # Channels last suits the convolutions (EfficientNet-Lite0 in float32 on a CPU: 41 ms an image
        # instead of 64) and is how the pixels arrive; transformers hardly notice.
        self._network = checkpoint.network.to(self._device, self._dtype).to(memory_format=torch.channels_last)
        self.embedding_dim = self._measure_dim()

    def prepare(self, pixels: npt.NDArray[np.uint8]) -> Prepared:
        """See `Model.prepare`; where there is no fast path, the dict of the model's own processor."""
        if self.preprocessing is not None:
            return self.preprocessing.prepare(pixels)
        return {name: values[0] for name, values in self.process(Image.fromarray(pixels)).items()}

    def predict(self, batch: list[Prepared]) -> Prediction:
        """See `Model.predict`. The vectors are float32, and of length 1 if the recipe normalises."""
        if self.preprocessing is not None:
            stacked = torch.stack(batch).to(self._device, memory_format=torch.channels_last)
            inputs = {"pixel_values": self.preprocessing.normalize(stacked)}
        else:
            inputs = {name: torch.stack([item[name] for item in batch]) for name in batch[0]}
        with torch.inference_mode():
            vectors = self.forward(inputs)
        return _checked(vectors.cpu(), normalize=self.recipe.normalize)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run the network on model inputs; returns float32 (n, dim), not normalised."""
        typed = {
            name: values.to(self._device, self._dtype if values.is_floating_point() else None)
            for name, values in inputs.items()
        }
        vectors: torch.Tensor = self.family.embedding(self._network(**typed))
        return vectors.float()

    def process(self, image: Image.Image) -> dict[str, torch.Tensor]:
        """Run the model's own processor on one RGB image: the reference for `prepare`."""
        options = {} if self.family is FAMILIES["timm_wrapper"] else _CHANNELS_LAST
        return dict(self.processor(image, return_tensors="pt", **options))

    def _measure_dim(self) -> int:
        grey = np.full((64, 64, 3), 128, dtype=np.uint8)
        return int(self.predict([self.prepare(grey)]).embedding.shape[1])


def _checked(vectors: torch.Tensor, *, normalize: bool) -> Prediction:
    """Find the rows that are no vectors, and scale the others to length 1 if wanted."""
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    bad = ~torch.isfinite(lengths) | (lengths == 0)
    if normalize:
        vectors = vectors / lengths.unsqueeze(1)
    failures: dict[int, ImageError] = {}
    for row in torch.nonzero(bad).flatten().tolist():
        what = "only zeros" if lengths[row] == 0 else "NaN or infinity"
        failures[row] = ImageError("bad_vector", f"the model returned {what}")
    return Prediction(vectors.numpy(), failures)


def describe(model: ImageEmbedder) -> dict[str, Any]:
    """Return what metadata.json says of the model."""
    recipe = model.recipe
    return {
        "name": model.name,
        "source": recipe.source,
        "revision": recipe.revision,
        "weights_sha256": recipe.weights_sha256,
        "dtype": recipe.dtype,
        "device": recipe.device,
        "embedding_dim": model.embedding_dim,
        "normalized": recipe.normalize,
        "output": model.family.output,
        "preprocessing": model.preprocessing.to_dict()
        if model.preprocessing
        else type(model.processor).__name__,
    }
