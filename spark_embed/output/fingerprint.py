"""What decides what a vector is, as plain values, and what to say when two runs differ in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from spark_embed.config import Config
from spark_embed.errors import ERROR_CODES, ResumeError
from spark_embed.schema import EMBEDDING_RESULTS, Results, read_results

EMBEDDING_VERSION = 1
"""Of this program's way from bytes to vector. Another one when the same image and model would give another
vector than before, beyond what a device's rounding does."""

FINGERPRINT_KEY = "spark_embed"
"""The entry of a parquet file's key-value metadata that says what its vectors come from, as JSON."""

# Of what a model says of itself: the rest decides what its results are.
_FOR_PEOPLE = frozenset(("name", "source", "device", "compiled"))
_OPTIONS = (
    *("model_directory", "revision", "dtype", "normalize", "allow_truncated", "allow_pickle_weights"),
    *("trust_remote_code", "max_samples", "jpeg_scaling"),
)
_LATER_OPTIONS = (
    "max_pixels",
    "task",
    "top_k",
    "min_score",
    "with_embedding",
    "text_column",
    "labels",
    "prompt",
)


def model_options(config: Config) -> dict[str, Any]:
    """Return the options that decide what a result is, as they were given.

    Those that earlier versions did not record only where they are not the default: the record of an earlier
    run is then still that of the same options.
    """
    given = {name: getattr(config, name) for name in (*_OPTIONS, *_LATER_OPTIONS)}
    return {
        name: value
        for name, value in given.items()
        if name in _OPTIONS or value != Config.model_fields[name].default
    }


def describe_rows(config: Config) -> str:
    """Return which rows of the data set a run is for."""
    return f"first {config.max_samples}" if config.max_samples else "all"


def make_fingerprint(
    data: Mapping[str, Any], model: Mapping[str, Any], results: Results, codes: Sequence[str]
) -> dict[str, Any]:
    """Return all of it.

    Args:
        data: `data_fingerprint`.
        model: what preflight says of the model (metadata.json's "model").
        results: what it gives; left out, like `codes`, where it is what an image embedder gives.
        codes: that its errors may have.
    """
    whole = {**_deciding(model), **data}
    if results != EMBEDDING_RESULTS:
        whole["results"] = results
    if set(codes) != ERROR_CODES:
        whole["codes"] = sorted(codes)
    plain: dict[str, Any] = json.loads(json.dumps(whole))
    return plain


UNGROUPED = "holds an image folder of an earlier version, which kept account of images otherwise"


def is_ungrouped_folder(fingerprint: Mapping[str, Any]) -> bool:
    """Say whether a run is over an image folder by an earlier version: each image was a shard of its own."""
    return fingerprint.get("layout") == "image_folder" and "images_per_group" not in fingerprint


def results_of(fingerprint: Mapping[str, Any]) -> Results:
    """Return what the model of a fingerprint gives.

    Raises:
        TypeError, ValueError: it is broken.
    """
    return read_results(fingerprint["results"]) if "results" in fingerprint else EMBEDDING_RESULTS


def codes_of(fingerprint: Mapping[str, Any]) -> frozenset[str]:
    """Return the codes that its errors may have."""
    return frozenset(map(str, fingerprint["codes"])) if "codes" in fingerprint else ERROR_CODES


def check_fingerprint(root: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Compare the values of `new` with those of the run that stands in `root`.

    Raises:
        ResumeError: some differ; the text names them, old value and new.
    """
    if found := _all_differences(old, new):
        raise ResumeError(
            f"--output_dir {root}: holds a run that differs from this one in "
            f"{'; '.join(found)}. Go on with the same options, start anew with --overwrite, or choose "
            "another --output_dir"
        )


def differences(fingerprint: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    """Return in what a model's description differs from a fingerprint, one text for each; none: its own."""
    return _all_differences(fingerprint, _deciding(model))


def file_metadata(fingerprint: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, str]:
    """Return what a file of the output says of its own origin, even when it has lost its folder."""
    about = {"model": model["name"], "source": model["source"], "fingerprint": fingerprint}
    return {FINGERPRINT_KEY: json.dumps(about)}


def _deciding(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return, as JSON has it, what of a model's description decides its results."""
    plain: dict[str, Any] = json.loads(json.dumps(model))
    return {name: value for name, value in plain.items() if name not in _FOR_PEOPLE}


def _all_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        text
        for name, value in new.items()
        if old.get(name) != value
        for text in _differ(name, old.get(name), value)
    ]


def _differ(name: str, old: Any, new: Any) -> list[str]:
    """Return in what two values differ: of dicts, the entries that do."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            text
            for key in {**old, **new}
            if old.get(key) != new.get(key)
            for text in _differ(f"{name}: {key}", old.get(key), new.get(key))
        ]
    return [f"{name}: {_shown(old)} -> {_shown(new)}"]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)
