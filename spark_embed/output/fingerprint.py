"""What decides what a vector is, as plain values, and what to say when two runs differ in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from spark_embed.config import Config
from spark_embed.errors import ResumeError

EMBEDDING_VERSION = 1
"""Of this program's way from bytes to vector. Another one when the same image and model would give another
vector than before, beyond what a device's rounding does."""

FINGERPRINT_KEY = "spark_embed"
"""The entry of a parquet file's key-value metadata that says what its vectors come from, as JSON."""

_MODEL_FIELDS = (
    "weights_sha256",
    "revision",
    "preprocessing",
    "dtype",
    "normalized",
    "output",
    "embedding_dim",
)
_OPTIONS = (
    *("model_directory", "revision", "dtype", "normalize", "allow_truncated", "allow_pickle_weights"),
    *("trust_remote_code", "max_samples"),
)


def model_options(config: Config) -> dict[str, Any]:
    """Return the options that decide what a vector is, as they were given."""
    return {name: getattr(config, name) for name in _OPTIONS}


def describe_rows(config: Config) -> str:
    """Return which rows of the data set a run is for."""
    return f"first {config.max_samples}" if config.max_samples else "all"


def make_fingerprint(data: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of it.

    Args:
        data: `data_fingerprint`.
        model: what preflight says of the model (metadata.json's "model").
    """
    whole = {**{name: model[name] for name in _MODEL_FIELDS}, **data}
    plain: dict[str, Any] = json.loads(json.dumps(whole))
    return plain


def check_fingerprint(root: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Compare the values of `new` with those of the run that stands in `root`.

    Raises:
        ResumeError: some differ; the text names them, old value and new.
    """
    differences = [
        text
        for name, value in new.items()
        if old.get(name) != value
        for text in _differ(name, old.get(name), value)
    ]
    if differences:
        raise ResumeError(
            f"--output_dir {root}: holds a run that differs from this one in "
            f"{'; '.join(differences)}. Go on with the same options, start anew with --overwrite, or choose "
            "another --output_dir"
        )


def file_metadata(fingerprint: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, str]:
    """Return what a file of the output says of its own origin, even when it has lost its folder."""
    about = {"model": model["name"], "source": model["source"], "fingerprint": fingerprint}
    return {FINGERPRINT_KEY: json.dumps(about)}


def _differ(name: str, old: Any, new: Any) -> list[str]:
    """Return in what two values differ: of dicts, the entries that do."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            f"{name}: {key}: {old.get(key, 'none')} -> {new.get(key, 'none')}"
            for key in {**old, **new}
            if old.get(key) != new.get(key)
        ]
    return [f"{name}: {_shown(old)} -> {_shown(new)}"]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
