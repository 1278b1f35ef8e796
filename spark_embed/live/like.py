"""Which model is to be live: by its own options, or as a run of the batch job had it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from spark_embed.config import ModelOptions
from spark_embed.errors import ConfigError, ModelError
from spark_embed.inference.recipes import make_recipe
from spark_embed.live.model import Wanted
from spark_embed.models.registry import EMBEDDED_MODEL, find_check
from spark_embed.output.fingerprint import EMBEDDING_VERSION, differences
from spark_embed.output.folder import Output
from spark_embed.output.records import RunRecord
from spark_embed.output.state import read_run
from spark_embed.storage import folder_path

logger = logging.getLogger(__name__)


def wanted_model(options: ModelOptions, device: str) -> Wanted:
    """Return the model that the options name; looks at its files, and loads nothing.

    `dtype` auto is float32: without a preflight, nobody has measured whether another precision will do.

    Raises:
        ConfigError, ModelError: it cannot be used.
    """
    if options.dtype == "auto":
        options = options.model_copy(update={"dtype": "float32"})
    recipe = replace(make_recipe(options), device=device)
    find_check(recipe.kind)(recipe)
    return Wanted(recipe, options.max_pixels, options.decode_timeout_s, options.allow_truncated)


WITH_TEXT: Mapping[str, Any] = {"text_column": "text"}
"""The option that lets a model have its text tower, too."""

_OF_TEXT = ("text_column", "text")


def wanted_like(
    output_dir: str, given: Mapping[str, Any], device: str, *, may_add_text: bool = False
) -> Wanted:
    """Return the model that a run had: the same weights, precision and way of decoding.

    Args:
        output_dir: of the run.
        given: options of it, by name, that win over the run's; refused once the model is loaded if they
            decide a result: so only where the model is now, and the like, can differ.
        device: to load it on.
        may_add_text: let it have a text tower that the run had no use for.

    Raises:
        ConfigError: there is no such run, or it is another version's.
        ModelError: its model cannot be used.
        ResumeError, StorageError: its record cannot be read.
    """
    root = folder_path(output_dir, "--like")
    run = read_run(Output(root))
    if run is None:
        raise ConfigError(f"--like {output_dir}: holds no run of spark_embed; give the --output_dir of one")
    if run.fingerprint.get("embedding_version") != EMBEDDING_VERSION:
        raise ConfigError(
            f"--like {output_dir}: another version of spark_embed made it, whose vectors are others"
        )
    options = _options_of(run, output_dir, given)
    known = {name: value for name, value in options.items() if name in ModelOptions.model_fields}
    wanted = wanted_model(ModelOptions.model_validate({**known, **given}), device)
    if run.model.get("compiled"):
        logger.info("--like %s: the run's network was compiled, this one is not", output_dir)
    sha256 = run.model.get("weights_sha256") or run.model.get("folder_sha256")
    return replace(
        wanted,
        recipe=replace(wanted.recipe, weights_sha256=sha256),
        min_edge=run.model.get("jpeg_scaling"),
        check=partial(_check_is_like, output_dir, run.fingerprint, _OF_TEXT if may_add_text else ()),
    )


def _options_of(run: RunRecord, output_dir: str, given: Collection[str]) -> dict[str, Any]:
    """Return the options of a run's model, with what its preflight resolved.

    Code and pickles are not trusted because a record says so, which others may have written.

    Raises:
        ConfigError: one of them cannot be said so, and is not among those `given`.
    """
    source, dtypes = run.model.get("source"), set(str(run.model.get("dtype", "auto")).split(","))
    if len(dtypes) > 1 and "dtype" not in given:
        raise ConfigError(
            f"--like {output_dir}: its models ran in {' and '.join(sorted(dtypes))}; serve one of them"
        )
    labels = run.options.get("labels")
    if isinstance(labels, list) and any("," in label for label in labels) and "labels" not in given:
        raise ConfigError(
            f"--like {output_dir}: a label of the run has a comma; give its file as --labels, too"
        )
    return {
        **run.options,
        "model_directory": None if source == EMBEDDED_MODEL else source or run.options.get("model_directory"),
        "dtype": dtypes.pop(),
        "revision": run.model.get("revision") or run.options.get("revision"),
        "labels": ",".join(labels) if isinstance(labels, list) else labels,
        "trust_remote_code": False,
        "allow_pickle_weights": False,
    }


def _check_is_like(
    output_dir: str, fingerprint: Mapping[str, Any], added: Collection[str], about: Mapping[str, Any]
) -> None:
    """Compare what a loaded model says of itself with what the run's said, who may have lacked what is added.

    Raises:
        ModelError: they differ.
    """
    new = {name for name in added if fingerprint.get(name) is None}
    if found := differences(fingerprint, {name: about[name] for name in about if name not in new}):
        raise ModelError(f"--like {output_dir}: the model differs from the run's in {'; '.join(found)}")
