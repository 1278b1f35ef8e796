"""Labels -> their vectors, with how the model compares them to an image's; small enough to travel."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from spark_embed.errors import ModelError
from spark_embed.models import Recipe
from spark_embed.models.text.tower import TEXT_RESULT, TextTower
from spark_embed.schema import TEXT_EMBEDDING

PLACE = "{}"
"""Where in a prompt the label goes."""

_BATCH = 64


@dataclass(frozen=True)
class LabelSide:
    """All of a zero-shot classifier that is not its image network.

    Attributes:
        vectors: float32 (n, dim), each of length 1, in the order of the labels.
        scores: "softmax" or "sigmoid" of cosine * scale + bias.
        text: what metadata.json says of how the vectors were made.
    """

    vectors: npt.NDArray[np.float32]
    scores: str
    scale: float
    bias: float
    text: dict[str, Any]

    def to_json(self) -> str:
        """Return it as a text: of 1,000 labels and 512 values 2.7 MB."""
        data = base64.b64encode(self.vectors.astype("<f4").tobytes()).decode()
        return json.dumps({**asdict(self), "vectors": [len(self.vectors), data]})

    @classmethod
    def from_json(cls, text: str) -> LabelSide:
        """Return what `to_json` gave."""
        values = json.loads(text)
        n_labels, data = values.pop("vectors")
        flat = np.frombuffer(base64.b64decode(data), "<f4").astype(np.float32)
        return cls(flat.reshape(n_labels, -1), **values)


def make_label_side(recipe: Recipe, labels: Sequence[str], prompt: str) -> LabelSide:
    """Load the text tower and run it on each label's prompt, in float32 (slow).

    Args:
        recipe: resolved.
        labels: in the order of the vectors.
        prompt: a text with `PLACE`.

    Raises:
        ModelError: as `TextTower`; a prompt is longer than the model reads, or has no vector.
    """
    tower = TextTower(replace(recipe, dtype="float32", normalize=True, compile_rows=None))
    prompts = [prompt.replace(PLACE, label) for label in labels]
    parts = []
    for first in range(0, len(prompts), _BATCH):
        made = tower.predict(prompts[first : first + _BATCH])
        for row, is_cut in enumerate(made.columns["text_truncated"]):
            failed = made.failures[TEXT_RESULT.name].get(row)
            if is_cut or failed:
                why = "is longer than the model reads" if is_cut else f"has no vector: {failed}"
                raise ModelError(f"--labels: {prompts[first + row]!r} {why}")
        parts.append(np.asarray(made.columns[TEXT_EMBEDDING]))
    similarity = tower.similarity()
    return LabelSide(np.concatenate(parts), tower.family.scores, *similarity, tower.describe())
