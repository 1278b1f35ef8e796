"""Options from here and there -> one `Config`, a session, `pipeline.run`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from pyspark.sql import SparkSession

from spark_embed import pipeline
from spark_embed.config import Config
from spark_embed.errors import ConfigError
from spark_embed.load_config import make_config, read_yaml
from spark_embed.service.batch.loader import UnifiedDataLoader
from spark_embed.service.batch.paths import Folder
from spark_embed.service.batch.writer import UnifiedOutputWriter
from spark_embed.spark.context import is_session_there
from spark_embed.spark.machine import check_machine
from spark_embed.spark.session import Session, make_session
from spark_embed.storage import folder_path

# Options of the command: what they do happens before and around a run.
_COMMAND_ONLY = ("config", "env", "dry_run")

_FOLDERS = ("input_dir", "output_dir")


class BatchInferenceOrchestrator:
    """Runs a data set through a model: `pipeline.run`, with its options from here and there.

    Args:
        model_directory: as --model_directory; None: what `config` says, else the embedded model.
        config: any options of a run by their names, or the path of a YAML file of them.
        num_workers: as --num_workers; None: what `config` says, else the default.
        batch_size: as --batch_size; None: what `config` says, else the default.

    Raises:
        ConfigError: the YAML file cannot be used, or an option is the command's alone.
    """

    def __init__(
        self,
        model_directory: Folder | None = None,
        config: Mapping[str, Any] | Config | Folder | None = None,
        num_workers: int | None = None,
        batch_size: int | Literal["auto"] | None = None,
    ) -> None:
        self._options = _read_options(config)
        self._given = {
            "model_directory": None if model_directory is None else os.fspath(model_directory),
            "num_workers": num_workers,
            "batch_size": batch_size,
        }

    def process_dataset(
        self,
        data_loader: UnifiedDataLoader,
        output_writer: UnifiedOutputWriter,
        max_samples: int | None = None,
    ) -> dict[str, Any]:
        """Bring the writer's folder up to date with the loader's; returns what metadata.json holds.

        A Spark session that is there already is used and left; else one is started, and stopped at the end.

        Args:
            data_loader: says what to embed.
            output_writer: says where the results go.
            max_samples: as --max_samples.

        Raises:
            ConfigError: an option is wrong, or said twice and not the same.
            SparkEmbedError: as `pipeline.run`.
        """
        config = _merge(
            {
                "config": self._options,
                "BatchInferenceOrchestrator": self._given,
                "process_dataset": {"max_samples": max_samples},
                "UnifiedDataLoader": {
                    "input_dir": data_loader.input_dir,
                    "aws_region": data_loader.aws_region,
                },
                "UnifiedOutputWriter": {
                    "output_dir": output_writer.output_dir,
                    "aws_region": output_writer.aws_region,
                },
            }
        )
        with open_session(config) as session:
            return pipeline.run(session, config).to_dict()


def _read_options(config: Mapping[str, Any] | Config | Folder | None) -> dict[str, Any]:
    """Return the options that `config` names.

    Raises:
        ConfigError: the file cannot be used, or an option is the command's alone.
    """
    if isinstance(config, Config):
        options = config.model_dump(exclude_unset=True)
    elif isinstance(config, str | os.PathLike):
        path = os.fspath(config)
        options = read_yaml(path, path, refused=())
    else:
        options = dict(config or {})
    for name in _COMMAND_ONLY:
        if options.get(name):
            raise ConfigError(f"config: {name} has no effect here: it is an option of the command")
    return options


def _merge(sources: Mapping[str, Mapping[str, Any]]) -> Config:
    """Return the options that all sources together give; None gives nothing.

    Raises:
        ConfigError: two sources give different values, or a value is wrong.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source, options in sources.items():
        for name, value in options.items():
            if value is None:
                continue
            if name in values and _compared(name, values[name]) != _compared(name, value):
                raise ConfigError(
                    f"{name}: {origins[name]} says {values[name]!r}, {source} says {value!r}; leave one out"
                )
            values[name], origins[name] = value, source
    return make_config(values, origins)


def _compared(name: str, value: object) -> str:
    return folder_path(str(value), name) if name in _FOLDERS else str(value)


@contextmanager
def open_session(config: Config) -> Iterator[Session]:
    """Give what returns the session, and stop that if it was not there before."""
    is_ours = not is_session_there()
    if is_ours:
        check_machine()
    made: list[SparkSession] = []

    def session() -> SparkSession:
        """Start Spark when the first step needs it: a run that finds nothing to do needs none."""
        if not made:
            made.append(make_session(config))
        return made[0]

    try:
        yield session
    finally:
        if is_ours:
            for spark in made:
                spark.stop()
