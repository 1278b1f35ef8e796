"""Which model the service is to have: by its own options, or as a run of the batch job had it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from spark_embed.config import ModelOptions
from spark_embed.errors import ConfigError, ModelError
from spark_embed.inference.recipes import make_recipe
from spark_embed.models.registry import EMBEDDED_MODEL, find_check
from spark_embed.output.fingerprint import EMBEDDING_VERSION, differences
from spark_embed.output.folder import Output
from spark_embed.output.records import RunRecord
from spark_embed.output.state import read_run
from spark_embed.service.realtime.live_model import Wanted
from spark_embed.service.realtime.settings import Settings
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


def wanted_like(output_dir: str, settings: Settings) -> Wanted:
    """Return the model that a run had: the same weights, precision and way of decoding.

    What the settings say of it otherwise, wins, and is refused once the model is loaded if it decides a
    result: so only where the model is now, and the like, can differ.

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
    options = _options_of(run, output_dir, settings.model.model_fields_set)
    wanted = wanted_model(settings.model_options(options), settings.model.device)
    if run.model.get("compiled"):
        logger.info("--like %s: the run's network was compiled, this one is not", output_dir)
    sha256 = run.model.get("weights_sha256") or run.model.get("folder_sha256")
    return replace(
        wanted,
        recipe=replace(wanted.recipe, weights_sha256=sha256),
        min_edge=run.model.get("jpeg_scaling"),
        check=partial(_check_is_like, output_dir, run.fingerprint),
    )


def _options_of(run: RunRecord, output_dir: str, given: set[str]) -> dict[str, Any]:
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


def _check_is_like(output_dir: str, fingerprint: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Compare what a loaded model says of itself with what the run's said.

    Raises:
        ModelError: they differ.
    """
    if found := differences(fingerprint, about):
        raise ModelError(f"--like {output_dir}: the model differs from the run's in {'; '.join(found)}")
