"""The job's flags, checked here as the job will on the cluster; so a wrong one is told in seconds."""

from __future__ import annotations

import os
from collections.abc import Sequence

from spark_embed.config import Config
from spark_embed.errors import ConfigError
from spark_embed.load_config import load_config
from spark_embed.storage import is_s3, uri_scheme

_NO_JOB = {"-h", "--help", "--version"}


def check_job(argv: Sequence[str]) -> Config:
    """Check the flags, without the environment of this machine, which is not there.

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
    cure = "'spark-embed emr deploy --model_directory FOLDER' puts it into S3 and prints the path to give"
    for model in config.model_directories:  # a hub id is fine
        if model.startswith((".", "/", "~")) or os.path.exists(model) or uri_scheme(model) == "file":
            _refuse_local("--model_directory", model, cure)
    return config


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
        raise ConfigError(f"{flag} {path}: is not in S3, and the cluster does not see this machine; {cure}")
