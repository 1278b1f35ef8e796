"""Folders with code, written by tests: a config.json and a model.py that do what a test wants."""

import json
from pathlib import Path

from spark_embed.models import Recipe
from spark_embed.models.registry import MODEL_FOLDER

CONFIG = {
    "name": "mean colour",
    "version": "1.0",
    "description": "the mean of each channel",
    "batch_size": 4,
    "batch_wait_s": 0.01,
    "metadata": {"type": "embedding"},
}

MEAN_COLOUR = """
import numpy as np


class ModelImpl:
    def load(self):
        self.scale = 1.0

    def warmup(self):
        self.encode([])

    def batch_size(self):
        return self.config["batch_size"]

    def batch_wait_s(self):
        return 0.01

    def encode(self, batch):
        return [np.asarray(row["image"]).mean(axis=(0, 1)) * self.scale for row in batch]
"""


def class_with(**bodies: str) -> str:
    """Return MEAN_COLOUR's class with other bodies of its methods, by name: `encode="return []"`."""
    lines = [MEAN_COLOUR, "", "class ModelImpl(ModelImpl):", "    pass"]
    for name, body in bodies.items():
        arguments = "self, batch" if name == "encode" else "self"
        lines += [f"    def {name}({arguments}):", *(f"        {line}" for line in body.splitlines())]
    return "\n".join(lines)


def write_folder(folder: Path, code: str | None = MEAN_COLOUR, **config) -> Path:
    """Write one; of `config` a None takes the key out."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {name: value for name, value in {**CONFIG, **config}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(values))
    if code is not None:
        (folder / "model.py").write_text(code)
    return folder


def recipe_of(folder: Path | str, **fields) -> Recipe:
    """Return a recipe that runs on the CPU."""
    return Recipe(source=str(folder), device="cpu", kind=MODEL_FOLDER, **fields)
