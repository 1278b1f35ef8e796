"""What is looked for -> its vector, by the very model that made the data set's; another one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from spark_embed.errors import ConfigError, ModelError
from spark_embed.live.like import WITH_TEXT, wanted_like
from spark_embed.live.model import Answer, LiveModel
from spark_embed.schema import EMBEDDING, TEXT_EMBEDDING
from spark_embed.search.vectors import Vectors

MAX_IMAGE_BYTES = 64 << 20


class QueryModel:
    """The model of a data set's vectors, loaded."""

    def __init__(
        self, output_dir: str, column: str, given: Mapping[str, Any] | None = None, *, with_text: bool = False
    ) -> None:
        """Load it (slow).

        Args:
            output_dir: the data set.
            column: the vectors that are indexed.
            given: options that say where the model is now, and the like; `spark_embed.live.like`.
            with_text: also for words, which takes a model with a text tower.

        Raises:
            ConfigError: it takes no words; or no such run.
            ModelError: it cannot be loaded, or is another one.
        """
        options = {**(WITH_TEXT if with_text else {}), **(given or {})}
        try:
            wanted = wanted_like(output_dir, options, "auto", may_add_text=with_text)
        except ConfigError as exc:
            raise ConfigError(f"--text: {exc}" if with_text else str(exc)) from exc
        self._live = LiveModel(wanted)
        self._of_image, self._of_text = _columns_for(column)

    @property
    def takes_text(self) -> bool:
        """Whether it has a vector for words."""
        return self._of_text in self._live.vectors

    def of_image(self, data: bytes) -> Vectors:
        """Return the vector of an encoded image, float32 (dim,).

        Raises:
            RowError: it cannot be read.
            ModelError: the model has no vector for images.
        """
        return self._vector(data, None, self._of_image)

    def of_text(self, text: str) -> Vectors:
        """Return the vector of words, float32 (dim,).

        Raises:
            RowError: there is none for them.
            ModelError: the model has no vector for words.
        """
        return self._vector(None, text, self._of_text)

    def _vector(self, image: bytes | None, text: str | None, column: str) -> Vectors:
        if column not in self._live.vectors:
            what = "images" if text is None else "words"
            raise ModelError(f"the model {self._live.name} has no vector for {what}")
        prepared = self._live.prepare(image, text, lambda n_bytes: nullcontext())
        answer = prepared if isinstance(prepared, Answer) else self._live.predict([prepared.prepared])[0]
        if error := answer.errors.get(self._live.result_of[column]):
            raise error
        vector: Vectors = answer.values[column]
        return vector


def _columns_for(column: str) -> tuple[str, str]:
    """Return the model's vector of an image and that of words which go with an indexed column."""
    suffix = column.removeprefix(TEXT_EMBEDDING).removeprefix(EMBEDDING)
    return f"{EMBEDDING}{suffix}", f"{TEXT_EMBEDDING}{suffix}"
