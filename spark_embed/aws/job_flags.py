"""The job's flags, checked here as the job will there; so a wrong one is told in seconds."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from spark_embed.config import Config
from spark_embed.errors import ConfigError
from spark_embed.load_config import conf_folder, load_config
from spark_embed.prices import Prices, read_prices
from spark_embed.storage import is_s3, uri_scheme

logger = logging.getLogger(__name__)

_NO_JOB = {"-h", "--help", "--version"}


def split_job(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the flags of a command of ours, and the job's own: what stands behind the first --."""
    cut = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:cut]), list(argv[cut + 1 :])


def check_job(argv: Sequence[str], model_cure: str) -> Config:
    """Check the flags, without the environment of this machine, which is not there.

    Args:
        argv: the flags.
        model_cure: how a model's folder comes into S3.

    Raises:
        ConfigError: one is wrong, or names what the cluster does not see.
    """
    if not argv:
        raise ConfigError(
            "the job's own flags come last, behind --: -- --input_dir s3://... --output_dir s3://..."
        )
    if not _NO_JOB.isdisjoint(argv):
        raise ConfigError("behind -- come the flags of a run; 'spark-embed --help' lists them")
    _refuse_local("--config", flag_value(argv, "--config"), "put it into S3 (aws s3 cp) and give that")
    config = load_config(argv, {})
    _refuse_local("--input_dir", config.input_dir, "copy it to S3 (aws s3 sync) and give that")
    _refuse_local("--output_dir", config.output_dir, "give a folder in S3: s3://bucket/folder")
    for model in config.model_directories:  # a hub id is fine
        if model.startswith((".", "/", "~")) or os.path.exists(model) or uri_scheme(model) == "file":
            _refuse_local("--model_directory", model, model_cure)
    return config


def add_price(argv: Sequence[str], find_price: Callable[[Prices], float]) -> list[str]:
    """Return the flags with --hourly_price, unless they or their --config say it, or nobody does.

    Args:
        argv: the flags.
        find_price: gives USD per hour of a machine, out of conf/prices.yaml; ConfigError where it cannot.
    """
    with suppress(ConfigError):  # told when they are checked, unless it is that --max_cost wants a price
        if not argv or load_config(argv, {}).hourly_price is not None:
            return list(argv)
    try:
        price = find_price(read_prices(str(conf_folder() / "prices.yaml")))
    except ConfigError as exc:
        logger.info("the summary will not say what the run has cost: %s", exc)
        return list(argv)
    return [*argv, "--hourly_price", f"{price:.4f}"]


def flag_value(argv: Sequence[str], flag: str) -> str | None:
    """Return the value of a flag of a command line, the last where it is there twice; None without it."""
    value = None
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        if word.startswith(f"{flag}="):
            value = word.partition("=")[2]
        elif word == flag:
            value = following
    return value


def _refuse_local(flag: str, path: str | None, cure: str) -> None:
    if path is not None and not is_s3(path):
        raise ConfigError(f"{flag} {path}: is not in S3, and the job does not see this machine; {cure}")
