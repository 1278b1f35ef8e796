"""A vision network with its preprocessing: loads, prepares and runs; makes no result of its outputs.

What is made of them, a vector or labels, is for the models of this room to say.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from spark_embed.errors import ImageError, ModelError, one_line
from spark_embed.models import Inputs, Prediction, Prepared, Recipe, Takes, Values
from spark_embed.models.backoff import Backoff, is_out_of_memory
from spark_embed.models.device import resolve_device, resolve_dtype
from spark_embed.models.vision.checkpoint import LIBRARY_ERRORS, open_checkpoint
from spark_embed.models.vision.compiled import compile_forward
from spark_embed.models.vision.families import FAMILIES, Checkpoint
from spark_embed.models.vision.fold import fold_batch_norms
from spark_embed.models.vision.outputs import LOGITS, Forward, Outputs, Tensors, make_forward
from spark_embed.models.vision.own_processor import process_image
from spark_embed.models.vision.preprocess import Pixels, Preprocessing
from spark_embed.models.vision.processor import read_preprocessing
from spark_embed.models.weights import bind_recipe

_START_ERRORS: tuple[type[Exception], ...] = (*LIBRARY_ERRORS, ImageError)


class VisionNetwork:
    """A loaded network with its preprocessing.

    Attributes:
        recipe: the recipe with everything resolved: device, dtype, commit, hash of the weights.
        takes: what its preprocessing needs of a row.
        wanted: the outputs that a forward pass gives.
        dims: the length of each, for one image.
        labels: the names of a classification head's outputs, in order; none without one.
        is_multi_label: of such a head: each label has a probability of its own.
        preprocessing: the fast path, None where the model's own processor prepares the images.
        processor: the model's own transformers processor: the reference.
        n_folded: batch norms that were folded; 0 means that the network is as transformers has it.
        backoff: runs batches in pieces that fit.
    """

    def __init__(self, recipe: Recipe, wanted: tuple[str, ...], *, fold: bool = True) -> None:
        """Load the network (slow; runs once per worker process).

        Args:
            recipe: of the model.
            wanted: of `outputs.LOGITS` and the embedding, one or both.
            fold: fold batch norms into convolutions; the reference of parity does not.

        Raises:
            ModelError: it cannot be loaded or run, or its weights are not those of
                `recipe.weights_sha256`.
        """
        device = resolve_device(recipe.device)  # first: where it is missing, no weights need be fetched
        torch.cuda.empty_cache()  # of this worker's model before: its GPU may be another task's by now
        checkpoint = open_checkpoint(recipe, has_head=LOGITS in wanted)
        self.recipe = bind_recipe(
            recipe,
            device=device,
            dtype=resolve_dtype(recipe.dtype, device),
            revision=checkpoint.revision,
            sha256=checkpoint.weights_sha256,
        )
        self.name = checkpoint.name
        self.family = checkpoint.family
        self.processor = checkpoint.processor
        self.labels = checkpoint.labels
        self.is_multi_label = checkpoint.is_multi_label
        self.takes = Takes(image="pixels")
        self.wanted = wanted
        self.dims: dict[str, int] = {}
        self.preprocessing: Preprocessing | None = None
        self.n_folded = 0
        self._device = torch.device(device)
        self._dtype: torch.dtype = getattr(torch, self.recipe.dtype)
        self.backoff = Backoff(self._device)
        self._compiled: Forward | None = None
        try:
            self._start(checkpoint, fold)
        except _START_ERRORS as exc:
            raise ModelError(_why_it_does_not_run(self.recipe, exc)) from exc

    def prepare(self, inputs: Inputs) -> Prepared:
        """See `Model.prepare`; where there is no fast path, the dict of the model's own processor.

        Raises:
            RowError: there is no image.
            ImageError: as `process`; `out_of_memory` on the fast path.
        """
        pixels = inputs.image
        if self.preprocessing is None:
            return {name: values[0] for name, values in self.process(pixels).items()}
        try:
            return self.preprocessing.prepare(pixels, inputs.box)
        except (RuntimeError, MemoryError) as exc:
            if is_out_of_memory(exc):
                raise ImageError("out_of_memory", "while resizing") from exc
            raise

    def predict(
        self,
        batch: list[Prepared],
        make: Callable[[Outputs], Prediction],
        nothing: Mapping[str, Values],
        result: str,
    ) -> Prediction:
        """Run a batch, in pieces that fit, and `make` a prediction of each one's outputs.

        These are float32, and still on the device if that can be; `nothing` and `result` as `Backoff.run`.
        """

        def run(piece: list[Prepared]) -> Prediction:
            with torch.inference_mode():  # the inputs, too: compiled code is made for one kind of tensors
                return make(self._run(piece))

        return self.backoff.run(batch, run, nothing, result)

    def describe(self) -> dict[str, Any]:
        """Return what `Model.describe` says whatever is made of the outputs."""
        recipe = self.recipe
        return {
            "name": self.name,
            "source": recipe.source,
            "revision": recipe.revision,
            "weights_sha256": recipe.weights_sha256,
            "dtype": recipe.dtype,
            "device": recipe.device,
            "preprocessing": self.preprocessing.to_dict()
            if self.preprocessing
            else type(self.processor).__name__,
        }

    def forward(self, inputs: Tensors) -> Outputs:
        """Run the network on model inputs; returns the outputs as float32 (n, dim)."""
        typed = {
            name: values.to(self._device, self._dtype if values.is_floating_point() else None)
            for name, values in inputs.items()
        }
        # What did not fit into memory must not be filled up to its old size.
        forward = self._forward if self.backoff.limit else self._compiled or self._forward
        return {name: values.float() for name, values in forward(typed).items()}

    def process(self, image: Image.Image | Pixels) -> dict[str, torch.Tensor]:
        """Run the model's own processor on one RGB image, as `process_image`: the reference for `prepare`.

        Of pixels the processors that are known make no picture of Pillow's before their own.
        """
        is_timm = self.family is FAMILIES["timm_wrapper"]
        if isinstance(image, np.ndarray) and (is_timm or self.preprocessing is None):
            image = Image.fromarray(image)
        return process_image(self.processor, image, is_timm=is_timm)

    def _start(self, checkpoint: Checkpoint, fold: bool) -> None:
        """Read the preprocessing, move the network to its device, and run one grey image through both."""
        self.preprocessing = read_preprocessing(checkpoint.processor)
        if self.preprocessing is not None:
            self.takes = replace(self.takes, edge=max(self.preprocessing.size))
        if fold and self.preprocessing is not None:
            noise = torch.randn((1, 3, *self.preprocessing.crop), generator=torch.Generator().manual_seed(0))
            first = self.wanted[:1]
            forward = make_forward(checkpoint.network, self.family, first)
            self.n_folded = fold_batch_norms(
                checkpoint.network, lambda: forward({"pixel_values": noise})[first[0]]
            )
        # Channels last suits the convolutions (EfficientNet-Lite0 in float32 on a CPU: 41 ms an image
        # instead of 64) and is how the pixels arrive; transformers hardly notice.
        self._network = checkpoint.network.to(self._device, self._dtype).to(memory_format=torch.channels_last)
        if fold and self._device.type == "cpu" and self._dtype == torch.float32:
            # As loaded, the tensors are the pages of their file, which somebody may write to later.
            self._network = deepcopy(self._network)
        self._forward = make_forward(self._network, self.family, self.wanted)
        prepared = self.prepare(_grey(64, 64))
        self.dims = {name: values.shape[1] for name, values in self._try([prepared]).items()}
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
            self._try([wide])
        except LIBRARY_ERRORS as exc:
            raise ModelError(
                f"--model_directory {self.recipe.source}: its processor leaves images their shape, and its "
                f"network takes only one (not {' x '.join(map(str, other))}: {one_line(exc)}); let "
                "preprocessor_config.json resize to height and width, or crop (do_center_crop)"
            ) from exc

    def _try(self, batch: list[Prepared]) -> Outputs:
        with torch.inference_mode():
            return self._run(batch)

    def _compile(self, n_rows: int, prepared: Prepared) -> None:
        """Compile the network and run it once, which is when that happens."""
        where = f"--model_directory {self.recipe.source}: --compile true"
        if self.preprocessing is None:
            raise ModelError(
                f"{where}: not for a model whose images transformers prepares, whose input sizes may vary"
            )
        self._compiled = compile_forward(self._forward, n_rows)
        try:
            self._try([prepared])
        except LIBRARY_ERRORS as exc:
            raise ModelError(
                f"{where}: torch.compile fails (on a CPU it needs a C++ compiler on every worker): "
                f"{type(exc).__name__}: {one_line(exc)}"
            ) from exc

    def _run(self, batch: list[Prepared]) -> Outputs:
        """Run one forward pass, or one for each shape of what the model's own processor has prepared."""
        if self.preprocessing is None:
            return self.forward_by_shape(batch)
        pixel_values = self.preprocessing.normalize(self._on_device(batch), self._dtype)
        return self.forward({"pixel_values": pixel_values})

    def forward_by_shape(self, batch: Sequence[Tensors]) -> Outputs:
        """Run the network on what its own processor has prepared, image by image, which may differ in shape.

        Returns:
            The outputs as float32 (n, dim) on the CPU, in order.
        """
        rows_by_shape: dict[tuple[torch.Size, ...], list[int]] = {}
        for row, item in enumerate(batch):
            rows_by_shape.setdefault(tuple(values.shape for values in item.values()), []).append(row)
        found: dict[str, dict[int, torch.Tensor]] = {name: {} for name in self.wanted}
        for rows in rows_by_shape.values():
            inputs = {name: torch.stack([batch[row][name] for row in rows]) for name in batch[rows[0]]}
            for name, values in self.forward(inputs).items():
                found[name] |= zip(rows, values.cpu(), strict=True)
        return {name: torch.stack([rows[row] for row in range(len(batch))]) for name, rows in found.items()}

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
        f"{where}cannot run on an image; do preprocessor_config.json and config.json belong together? "
        f"{type(exc).__name__}: {one_line(exc)}"
    )
