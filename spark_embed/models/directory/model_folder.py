"""A folder with code, behind the seam: batches go to its `encode`, and a bad row is one error row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from spark_embed.errors import ModelError, RowError
from spark_embed.models import Inputs, Prediction, Prepared, Recipe, Takes, join_values
from spark_embed.models.backoff import Backoff
from spark_embed.models.device import resolve_device
from spark_embed.models.directory.code import FolderCode, ModelImpl, row_errors
from spark_embed.models.directory.contract import untrusted
from spark_embed.models.directory.files import FolderFiles, fetch_files, unchanged
from spark_embed.models.directory.outputs import Embeddings, Labels, Output, as_rows
from spark_embed.models.directory.recognise import check_options
from spark_embed.storage import is_s3


class ModelFolder:
    """A loaded `ModelImpl`; implements `spark_embed.models.Model`, in a batch job as in a service.

    Attributes:
        config: what config.json says.
        batch_size: rows that `encode` takes at most.
        batch_wait_s: how long a service waits for a batch to fill.
    """

    codes = frozenset({"model_error"})
    reference = None  # nothing else knows what it should give

    def __init__(self, recipe: Recipe) -> None:
        """Run the folder's code: import it, `load`, `warmup`, and `encode` a grey image (slow).

        Raises:
            ModelError: it cannot be run, or its files are not those of `recipe.weights_sha256`.
        """
        check_options(recipe)
        device = resolve_device(recipe.device)  # first: where it is missing, no weights need be fetched
        torch.cuda.empty_cache()  # of this worker's model before: its GPU may be another task's by now
        files = fetch_files(recipe)
        if (files.revision or is_s3(recipe.source)) and not recipe.trust_remote_code:
            raise ModelError(untrusted(recipe.source))
        self.config = files.config
        dtype = "float32" if recipe.dtype == "auto" else recipe.dtype
        self._code = FolderCode(files.folder, recipe.source)
        self._backoff = Backoff(torch.device(device))
        self._output: Output = (
            Embeddings(normalize=recipe.normalize)
            if files.config.metadata.type == "embedding"
            else Labels(files.config.metadata.labels)
        )
        with unchanged(files, recipe.source) as made:
            self._impl = self._load(files, device, dtype)
            self.batch_size = int(self._asked(self._impl.batch_size, 1))
            self.batch_wait_s = self._asked(self._impl.batch_wait_s, 0)
            self._try_grey()
        (sha256,) = made
        if recipe.weights_sha256 not in (None, sha256):
            raise ModelError(
                f"--model_directory {recipe.source}: the folder of this worker hashes to {sha256}, that of "
                f"the run to {recipe.weights_sha256}; every worker needs the same files, and code may change "
                "none of them (names that begin with a dot are left out)"
            )
        self.recipe = replace(
            recipe, device=device, dtype=dtype, revision=files.revision, weights_sha256=sha256
        )

    @property
    def takes(self) -> Takes:
        """See `Model.takes`."""
        column = self.config.metadata.text_column
        return Takes("pixels", (column,) if column else ())

    @property
    def gives(self) -> Any:
        """See `Model.gives`; what `metadata.type` says."""
        return self._output.gives

    def prepare(self, inputs: Inputs) -> Prepared:
        """Return what `encode` is given of a row; runs on decode threads.

        Raises:
            RowError: there is no image.
        """
        pixels, metadata = inputs.image, self.config.metadata
        row = {"image": Image.fromarray(pixels) if metadata.image == "pil" else pixels}
        if metadata.text_column:
            text = inputs.columns.get(metadata.text_column)
            row["text"] = None if text is None else str(text)
        return row

    def predict(self, batch: list[Prepared]) -> Prediction:
        """See `Model.predict`; `encode` gets no more rows at once than it takes."""
        (result,) = (result.name for result in self.gives)
        columns: list[Any] = []
        failures: dict[int, RowError] = {}
        for start in range(0, len(batch), self.batch_size):
            piece = batch[start : start + self.batch_size]
            part = self._backoff.run(piece, self._predict, self._output.nothing, result)
            columns.append(part.columns)
            failures |= {start + row: error for row, error in part.failures[result].items()}
        joined = {name: join_values([part[name] for part in columns]) for name in self._output.nothing}
        return Prediction(joined, {result: failures}, self._backoff.limit)

    def describe(self) -> dict[str, Any]:
        """See `Model.describe`; `folder_sha256` is of names and contents, the weights' included."""
        recipe, config = self.recipe, self.config
        about: dict[str, Any] = {
            "name": config.name,
            "version": config.version,
            "type": config.metadata.type,
            "source": recipe.source,
            "revision": recipe.revision,
            "folder_sha256": recipe.weights_sha256,
            "dtype": recipe.dtype,
            "device": recipe.device,
        }
        if isinstance(self._output, Embeddings):
            about |= {"embedding_dim": self._output.dim, "normalized": recipe.normalize}
        return about

    def _load(self, files: FolderFiles, device: str, dtype: str) -> ModelImpl:
        given = {
            "folder": files.folder,
            "config": files.values,
            "weights": files.weights,
            "device": device,
            "dtype": dtype,
        }
        impl = self._code.make(given)
        with self._code.errors("load() fails"):
            impl.load()
        with self._code.errors("warmup() fails"):
            impl.warmup()
        return impl

    def _asked(self, method: Callable[[], float], least: int) -> float:
        """Return a number that `ModelImpl` says of itself."""
        with self._code.errors(f"{method.__name__}() fails"):
            value = float(method())
            if not least <= value < float("inf"):
                raise ValueError(f"it returned {value:g}")
        return value

    def _try_grey(self) -> None:
        """Let `encode` say what it gives; one that fails at a grey image will hardly do better on others."""
        grey = Inputs(np.full((64, 64, 3), 128, dtype=np.uint8))
        if column := self.config.metadata.text_column:
            grey = grey._replace(columns={column: "a grey square"})
        with self._code.errors("encode() fails at a grey image of 64 x 64"):
            encoded = self._impl.encode([self.prepare(grey)])
        try:
            self._output.learn(as_rows(encoded, 1)[0])
        except RowError as exc:
            raise ModelError(f"--model_directory {self._code.source}: at a grey image, {exc.detail}") from exc

    def _predict(self, batch: list[Prepared]) -> Prediction:
        return self._output.collect(self._encode(batch))

    def _encode(self, batch: list[Prepared]) -> list[Any]:
        """Return what `encode` gives of each row, or its `RowError`; a batch that fails goes row by row."""
        try:
            with row_errors():
                # Copies: whoever changes a row, or its image in place, may be given it again.
                rows = [{**row, "image": row["image"].copy()} for row in batch]
                return as_rows(self._impl.encode(rows), len(batch))
        except RowError as exc:
            if len(batch) == 1:
                return [exc.without_traceback()]
        return [result for row in batch for result in self._encode([row])]
