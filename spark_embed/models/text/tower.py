"""The text tower of a model: loads it with its tokenizer, and runs it; makes no result of its vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import transformers

from spark_embed.errors import ModelError, RowError, one_line
from spark_embed.models import Prediction, Recipe, Values
from spark_embed.models.backoff import Backoff
from spark_embed.models.device import resolve_device, resolve_dtype
from spark_embed.models.folder import find_folder
from spark_embed.models.text.files import TextFiles, read_text_files
from spark_embed.models.text.tokenizer import Tokenizer
from spark_embed.models.vectors import check_vectors
from spark_embed.models.vision.checkpoint import (
    LIBRARY_ERRORS,
    check_complete,
    load_network,
    load_weights,
    name_of,
)
from spark_embed.models.weights import bind_recipe, hashed
from spark_embed.schema import TEXT_EMBEDDING, Field, Result

TEXT_RESULT = Result("text", (Field(TEXT_EMBEDDING, "vector"), Field("text_truncated", "boolean")))
"""A text's vector, and whether its end had to be cut off first."""


class Similarity(NamedTuple):
    """How a model was trained to compare an image with a text: cosine * scale + bias."""

    scale: float
    bias: float


@dataclass(frozen=True)
class _Loaded:
    network: Any
    tokenizer: Tokenizer
    files: TextFiles
    name: str
    revision: str | None
    weights_sha256: str
    logits: dict[str, float]


class TextTower:
    """A loaded text network with its tokenizer.

    Attributes:
        recipe: the recipe with everything resolved: device, dtype, commit, hash of the weights.
        name: short name of the model.
        family: of the network.
        dim: length of a vector.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Load it (slow; runs once per worker process).

        Args:
            recipe: of the model.

        Raises:
            ModelError: it cannot be loaded or run, or its weights are not those of `recipe.weights_sha256`.
        """
        device = resolve_device(recipe.device)
        loaded = _load(recipe)
        self.recipe = bind_recipe(
            recipe,
            device=device,
            dtype=resolve_dtype(recipe.dtype, device),
            revision=loaded.revision,
            sha256=loaded.weights_sha256,
        )
        self.name, self.family = loaded.name, loaded.files.family
        self._files, self._tokenizer, self._logits = loaded.files, loaded.tokenizer, loaded.logits
        self._device = torch.device(device)
        self._backoff = Backoff(self._device)
        try:
            self._network = loaded.network.to(self._device, getattr(torch, self.recipe.dtype))
            if device == "cpu" and self.recipe.dtype == "float32":
                # As loaded, the tensors are the pages of their file, which somebody may write to later.
                self._network = deepcopy(self._network)
            self.dim = self._run(["a photo"])[0].shape[1]
        except LIBRARY_ERRORS as exc:
            raise ModelError(
                f"--model_directory {recipe.source}: its text tower cannot run on a text; do tokenizer and "
                f"config.json belong together? {type(exc).__name__}: {one_line(exc)}"
            ) from exc

    def predict(self, texts: Sequence[str]) -> Prediction:
        """Return the columns of `TEXT_RESULT`, and the rows that lack it; in pieces that fit.

        The vectors are float32, and of length 1 if the recipe normalises.
        """

        def run(piece: list[str]) -> Prediction:
            vectors, is_cut = self._run(piece)
            found, failures = check_vectors(vectors.cpu().numpy(), normalize=self.recipe.normalize)
            return Prediction({TEXT_EMBEDDING: found, "text_truncated": is_cut}, {TEXT_RESULT.name: failures})

        nothing: dict[str, Values] = {
            TEXT_EMBEDDING: np.zeros((1, self.dim), dtype=np.float32),
            "text_truncated": [False],
        }
        return self._backoff.run(list(texts), run, nothing, TEXT_RESULT.name)

    def plain_vectors(self, texts: Sequence[str | RowError]) -> npt.NDArray[np.float32]:
        """Return what transformers alone makes of each text, in float32; zeros where there is none."""
        network = self._network
        if self.recipe.dtype != "float32":
            network = _load(self.recipe).network.to(self._device)
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for row, text in enumerate(texts):
                if isinstance(text, str):
                    tokens = self._tokenizer.plain(text)
                    outputs = network(**{name: values.to(self._device) for name, values in tokens.items()})
                    vectors[row] = self.family.embedding(outputs)[0].cpu().numpy()
        return vectors

    def similarity(self) -> Similarity:
        """Return how the model compares an image's vector with a text's.

        Raises:
            ModelError: its weights do not say so.
        """
        wanted = ("logit_scale",) if self.family.scores == "softmax" else ("logit_scale", "logit_bias")
        check_complete([name for name in wanted if name not in self._logits], self.recipe)
        scale, *bias = (self._logits[name] for name in wanted)
        return Similarity(math.exp(scale), bias[0] if bias else 0.0)

    def describe(self) -> dict[str, Any]:
        """Return what decides a text's vector, beside the weights."""
        return {
            "output": self.family.output,
            "padding": self.family.padding,
            "max_tokens": self._tokenizer.max_tokens,
            "tokenizer_sha256": self._files.tokenizer_sha256,
        }

    def _run(self, texts: Sequence[str]) -> tuple[torch.Tensor, list[bool]]:
        """Return the vectors, float32 (n, dim) on the device, and which texts were cut."""
        tokens, is_cut = self._tokenizer(texts)
        with torch.inference_mode():
            outputs = self._network(**{name: values.to(self._device) for name, values in tokens.items()})
        return self.family.embedding(outputs).float(), is_cut


def clean_text(value: object, column: str) -> str:
    """Return a row's text.

    Raises:
        RowError: it is null, or holds nothing but white space.
        ModelError: the column holds no texts.
    """
    if value is None:
        raise RowError("no_text", f"{column} is null")
    if not isinstance(value, str):
        raise ModelError(f"--text_column {column}: holds {type(value).__name__}, and texts are needed")
    if not value.strip():
        raise RowError("no_text", f"{column} is empty")
    return value


def check_one_space(recipe: Recipe, image_dim: int, text_dim: int) -> None:
    """Refuse a model whose vectors of images and of texts cannot be compared.

    Raises:
        ModelError: they differ in length.
    """
    if image_dim != text_dim:
        raise ModelError(
            f"--model_directory {recipe.source}: its images' vectors have {image_dim:,} values, those of "
            f"texts {text_dim:,}: they are not in one space"
        )


def cosines(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the cosine of each row with its counterpart; NaN where one has no length."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: npt.NDArray[np.float32] = np.einsum("ij,ij->i", one, other) / lengths
    return found


def _load(recipe: Recipe) -> _Loaded:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder, revision = find_folder(recipe)
    files = read_text_files(folder, recipe)
    try:
        with hashed(files.weights) as weights_sha256:
            state = load_weights(files.weights)
            network, missing = load_network(
                getattr(transformers, files.family.network),
                folder,
                state,
                **files.family.network_options(files.config),
            )
            n_positions = network.config.max_position_embeddings
    except LIBRARY_ERRORS as exc:
        raise ModelError(
            f"--model_directory {recipe.source}: its text tower cannot be loaded: {one_line(exc)}"
        ) from exc
    check_complete(missing, recipe)
    return _Loaded(
        network=network.float().eval(),
        tokenizer=Tokenizer(folder, recipe, files.family.padding, n_positions),
        files=files,
        name=name_of(recipe, folder, revision),
        revision=revision,
        weights_sha256=weights_sha256.result(),
        logits={name: float(state[name]) for name in ("logit_scale", "logit_bias") if name in state},
    )
