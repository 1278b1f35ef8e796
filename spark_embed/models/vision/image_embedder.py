"""Image -> embedding, for every family of transformers vision models."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from spark_embed.errors import ImageError, ModelError, RowError, one_line
from spark_embed.models import Inputs, Prediction, Prepared, Recipe, Takes
from spark_embed.models.backoff import Backoff, is_out_of_memory
from spark_embed.models.device import resolve_device, resolve_dtype
from spark_embed.models.vision.checkpoint import LIBRARY_ERRORS, open_checkpoint
from spark_embed.models.vision.compiled import Embed, Tensors, compile_embed
from spark_embed.models.vision.families import FAMILIES, Checkpoint
from spark_embed.models.vision.fold import fold_batch_norms
from spark_embed.models.vision.own_processor import process_image
from spark_embed.models.vision.preprocess import Preprocessing
from spark_embed.models.vision.processor import read_preprocessing
from spark_embed.schema import EMBEDDING, EMBEDDING_RESULTS

_START_ERRORS: tuple[type[Exception], ...] = (*LIBRARY_ERRORS, ImageError)

# ViT-B/32 in float32 on one core: 0.10 s an image with 4 at once, as with 16; 0.13 s one by one.
_REFERENCE_ROWS = 4


class ImageEmbedder:
    """A loaded network with its preprocessing; implements `spark_embed.models.Model`.

    Attributes:
        recipe: the recipe with everything resolved: device, dtype, commit, hash of the weights.
        preprocessing: the fast path, None where the model's own processor prepares the images.
        processor: the model's own transformers processor: the reference.
        embedding_dim: length of a vector.
        n_folded: batch norms that were folded; 0 means that the network is as transformers has it.
    """

    takes = Takes(image="pixels")
    gives = EMBEDDING_RESULTS
    codes: frozenset[str] = frozenset()  # those of images say all

    def __init__(self, recipe: Recipe, *, fold: bool = True) -> None:
        """Load the model (slow; runs once per worker process).

        Args:
            fold: fold batch norms into convolutions; the reference of parity does not.

        Raises:
            ModelError: it cannot be loaded or run, or its weights are not those of
                `recipe.weights_sha256`.
        """
        device = resolve_device(recipe.device)  # first: where it is missing, no weights need be fetched
        torch.cuda.empty_cache()  # of this worker's model before: its GPU may be another task's by now
        checkpoint = open_checkpoint(recipe)
        if recipe.weights_sha256 not in (None, checkpoint.weights_sha256):
            raise ModelError(
                f"--model_directory {recipe.source}: the weights of this worker hash to "
                f"{checkpoint.weights_sha256}, those of the run to {recipe.weights_sha256}; "
                "every worker needs the same model"
            )
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
        self.preprocessing: Preprocessing | None = None
        self.embedding_dim = self.n_folded = 0
        self._device = torch.device(device)
        self._dtype: torch.dtype = getattr(torch, self.recipe.dtype)
        self._backoff = Backoff(self._device)
        self._compiled_embed: Embed | None = None
        try:
            self._start(checkpoint, fold)
        except _START_ERRORS as exc:
            raise ModelError(_why_it_does_not_run(self.recipe, exc)) from exc

    @property
    def reference(self) -> PlainTransformers:
        """The same network by transformers alone."""
        return PlainTransformers(self)

    def prepare(self, inputs: Inputs) -> Prepared:
        """See `Model.prepare`; where there is no fast path, the dict of the model's own processor.

        Raises:
            RowError: there is no image.
            ImageError: as `process`; `out_of_memory` on the fast path.
        """
        pixels = inputs.image
        if self.preprocessing is None:
            return {name: values[0] for name, values in self.process(Image.fromarray(pixels)).items()}
        try:
            return self.preprocessing.prepare(pixels, inputs.box)
        except (RuntimeError, MemoryError) as exc:
            if is_out_of_memory(exc):
                raise ImageError("out_of_memory", "while resizing") from exc
            raise

    def predict(self, batch: list[Prepared]) -> Prediction:
        """See `Model.predict`. The vectors are float32, and of length 1 if the recipe normalises."""
        nothing = {EMBEDDING: np.zeros((1, self.embedding_dim), dtype=np.float32)}
        return self._backoff.run(batch, self._predict, nothing, EMBEDDING)

    def describe(self) -> dict[str, Any]:
        """See `Model.describe`."""
        recipe = self.recipe
        return {
            "name": self.name,
            "source": recipe.source,
            "revision": recipe.revision,
            "weights_sha256": recipe.weights_sha256,
            "dtype": recipe.dtype,
            "device": recipe.device,
            "embedding_dim": self.embedding_dim,
            "normalized": recipe.normalize,
            "output": self.family.output,
            "preprocessing": self.preprocessing.to_dict()
            if self.preprocessing
            else type(self.processor).__name__,
        }

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run the network on model inputs; returns float32 (n, dim), not normalised."""
        typed = {
            name: values.to(self._device, self._dtype if values.is_floating_point() else None)
            for name, values in inputs.items()
        }
        # What did not fit into memory must not be filled up to its old size.
        embed = self._embed if self._backoff.limit else self._compiled_embed or self._embed
        return embed(typed).float()

    def process(self, image: Image.Image) -> dict[str, torch.Tensor]:
        """Run the model's own processor on one RGB image, as `process_image`: the reference for `prepare`."""
        return process_image(self.processor, image, is_timm=self.family is FAMILIES["timm_wrapper"])

    def _start(self, checkpoint: Checkpoint, fold: bool) -> None:
        """Read the preprocessing, move the network to its device, and run one grey image through both."""
        self.preprocessing = read_preprocessing(checkpoint.processor)
        if self.preprocessing is not None:
            self.takes = replace(self.takes, edge=max(self.preprocessing.size))
        if fold and self.preprocessing is not None:
            noise = torch.randn((1, 3, *self.preprocessing.crop), generator=torch.Generator().manual_seed(0))
            network, embedding = checkpoint.network, self.family.embedding
            self.n_folded = fold_batch_norms(network, lambda: embedding(network(pixel_values=noise)))
        # Channels last suits the convolutions (EfficientNet-Lite0 in float32 on a CPU: 41 ms an image
        # instead of 64) and is how the pixels arrive; transformers hardly notice.
        self._network = checkpoint.network.to(self._device, self._dtype).to(memory_format=torch.channels_last)
        if fold and self._device.type == "cpu" and self._dtype == torch.float32:
            # As loaded, the tensors are the pages of their file, which somebody may write to later.
            self._network = deepcopy(self._network)
        prepared = self.prepare(_grey(64, 64))
        self.embedding_dim = np.shape(self._predict([prepared]).columns[EMBEDDING])[1]
        if self.preprocessing is None:
            self._try_another_shape(prepared)
        if self.recipe.compile_rows:
            self._compile(self.recipe.compile_rows, prepared)

    def _try_another_shape(self, prepared: dict[str, torch.Tensor]) -> None:
        """Look whether a processor that leaves images their shape goes with the network."""
        wide = self.prepare(_grey(64, 96))
        shape, other = (tuple(item["pixel_values"].shape) for item in (prepared, wide))
        if shape == other:
            return
        try:
            self._predict([wide])
        except LIBRARY_ERRORS as exc:
            raise ModelError(
                f"--model_directory {self.recipe.source}: its processor leaves images their shape, and its "
                f"network takes only one (not {' x '.join(map(str, other))}: {one_line(exc)}); let "
                "preprocessor_config.json resize to height and width, or crop (do_center_crop)"
            ) from exc

    def _embed(self, inputs: Tensors) -> torch.Tensor:
        vectors: torch.Tensor = self.family.embedding(self._network(**inputs))
        return vectors

    def _compile(self, n_rows: int, prepared: Prepared) -> None:
        """Compile the network and run it once, which is when that happens."""
        where = f"--model_directory {self.recipe.source}: --compile true"
        if self.preprocessing is None:
            raise ModelError(
                f"{where}: not for a model whose images transformers prepares, whose input sizes may vary"
            )
        self._compiled_embed = compile_embed(self._embed, n_rows)
        try:
            self._predict([prepared])
        except LIBRARY_ERRORS as exc:
            raise ModelError(
                f"{where}: torch.compile fails (on a CPU it needs a C++ compiler on every worker): "
                f"{type(exc).__name__}: {one_line(exc)}"
            ) from exc

    def _predict(self, batch: list[Prepared]) -> Prediction:
        """Run one forward pass, or one for each shape of what the model's own processor has prepared."""
        with torch.inference_mode():  # the inputs, too: compiled code is made for one kind of tensors
            if self.preprocessing is not None:
                inputs = {"pixel_values": self.preprocessing.normalize(self._on_device(batch), self._dtype)}
                vectors = self.forward(inputs).cpu()
            else:
                vectors = self.forward_by_shape(batch)
        return _checked(vectors, normalize=self.recipe.normalize)

    def forward_by_shape(self, batch: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Run the network on what its own processor has prepared, image by image, which may differ in shape.

        Returns:
            float32 (n, dim) on the CPU, in order, not normalised.
        """
        rows_by_shape: dict[tuple[torch.Size, ...], list[int]] = {}
        for row, item in enumerate(batch):
            rows_by_shape.setdefault(tuple(values.shape for values in item.values()), []).append(row)
        vectors: dict[int, torch.Tensor] = {}
        for rows in rows_by_shape.values():
            inputs = {name: torch.stack([batch[row][name] for row in rows]) for name in batch[rows[0]]}
            vectors |= zip(rows, self.forward(inputs).cpu(), strict=True)
        return torch.stack([vectors[row] for row in range(len(batch))])

    def _on_device(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """Return uint8 images (3, height, width) as one batch on the device, channels last in memory.

        On CUDA by way of page-locked memory, from which the copy runs while Python goes on.
        """
        on_cuda = self._device.type == "cuda"
        stacked = torch.empty(
            (len(batch), *batch[0].shape),
            dtype=torch.uint8,
            memory_format=torch.channels_last,
            pin_memory=on_cuda,
        )
        torch.stack(batch, out=stacked)
        return stacked.to(self._device, non_blocking=on_cuda)


def _grey(height: int, width: int) -> Inputs:
    return Inputs(np.full((height, width, 3), 128, dtype=np.uint8))


def _why_it_does_not_run(recipe: Recipe, exc: Exception) -> str:
    where = f"--model_directory {recipe.source}: "
    if is_out_of_memory(exc) or (isinstance(exc, ImageError) and exc.code == "out_of_memory"):
        return (
            f"{where}it does not fit into the memory of device {recipe.device} on host "
            f"{socket.gethostname()}: {one_line(exc)}; take --dtype bfloat16 or float16, a smaller model or "
            "a larger device; let no two tasks share one (spark.task.resource.gpu.amount 1); and where only "
            "preflight's second copy, in float32, is too much, --parity_samples 0"
        )
    return (
        f"{where}cannot embed an image; do preprocessor_config.json and config.json belong together? "
        f"{type(exc).__name__}: {one_line(exc)}"
    )


def _checked(vectors: torch.Tensor, *, normalize: bool) -> Prediction:
    """Find the rows that are no vectors, and scale the others to length 1 if wanted."""
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    bad = ~torch.isfinite(lengths) | (lengths == 0)
    if normalize:
        vectors = vectors / lengths.unsqueeze(1)
    failures: dict[int, RowError] = {}
    for row in torch.nonzero(bad).flatten().tolist():
        what = "only zeros" if lengths[row] == 0 else "NaN or infinity"
        failures[row] = ImageError("bad_vector", f"the model returned {what}")
    return Prediction({EMBEDDING: vectors.numpy()}, {EMBEDDING: failures})


class PlainTransformers:
    """The network of an `ImageEmbedder` by transformers alone: its own processor, float32, nothing folded."""

    column = EMBEDDING

    def __init__(self, model: ImageEmbedder) -> None:
        self._model = model

    def prepare(self, pixels: npt.NDArray[np.uint8]) -> dict[str, torch.Tensor]:
        """See `ReferenceModel.prepare`; by the processor's PIL backend where there is one."""
        return self._model.process(Image.fromarray(pixels))

    def difference(self, prepared: Prepared, reference: dict[str, torch.Tensor]) -> float | None:
        """See `ReferenceModel.difference`; None where the processor prepares the run's own images, too."""
        if self._model.preprocessing is None:
            return None
        expected = self._model.preprocessing.grey_levels(reference["pixel_values"])[0]
        return round(float((prepared.float() - expected).abs().max()), 3)

    def predict(self, batch: Sequence[dict[str, torch.Tensor]]) -> npt.NDArray[np.float32]:
        """See `ReferenceModel.predict`."""
        model, recipe = self._model, self._model.recipe
        if recipe.dtype != "float32" or model.n_folded or recipe.compile_rows:
            model = ImageEmbedder(replace(recipe, dtype="float32", compile_rows=None), fold=False)
        items = [{name: values[0] for name, values in item.items()} for item in batch]
        pieces = [items[start : start + _REFERENCE_ROWS] for start in range(0, len(items), _REFERENCE_ROWS)]
        with torch.inference_mode():
            return np.concatenate([model.forward_by_shape(piece).numpy() for piece in pieces])
