"""Looks at a session's settings and asks its executors what they are, before anything slow is begun there."""

from __future__ import annotations

import glob
import logging
import os
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from pyspark import TaskContext
from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.errors import ModelError
from spark_embed.spark.cluster import NAMES, Finding, check_local, check_settings
from spark_embed.spark.context import is_local
from spark_embed.spark.executors import OWN_PACKAGE, Executor, check_executors, shown_hosts
from spark_embed.spark.settings import count_slots, setting
from spark_embed.spark.tasks import run_tasks

logger = logging.getLogger(__name__)

# By distribution, the modules without which a worker embeds nothing.
_MODULES = {
    OWN_PACKAGE: "spark_embed",
    "torch": "torch",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "timm": "timm",
    "safetensors": "safetensors",
    "pillow": "PIL",
    "simplejpeg": "simplejpeg",
    "aiohttp": "aiohttp",
}

_PATIENCE_S = 45


def check_cluster(spark: SparkSession, config: Config) -> None:
    """Say what is wrong with a session for this job; of executors elsewhere each is asked by a task.

    Raises:
        ConfigError: a run cannot work so.
        ModelError: an executor lacks the model, or with --require_gpu a GPU.
    """
    conf = read_settings(spark)
    tell(check_settings(conf, runs=True))
    n_slots, task_cpus = count_slots(spark)
    if is_local(spark):
        tell(check_local(conf, n_slots, _n_gpus()))
        return
    folder = os.path.abspath(os.path.expanduser(config.model_directory or ""))
    seen = ask_executors(spark, folder if config.model_directory and os.path.isdir(folder) else None)
    n_slots, task_cpus = count_slots(spark)
    if lacking := [executor.host for executor in seen if not executor.has_model]:
        raise ModelError(
            f"--model_directory {folder}: there is no such folder on {shown_hosts(lacking)}, only here: "
            "copy it to every machine, or name one in S3 or a hub id"
        )
    tell(check_executors(conf, look(), seen, n_slots * task_cpus, require_gpu=config.require_gpu))


def tell(findings: Iterable[Finding]) -> None:
    """Log what is wrong, or raise the first that no run can go on with."""
    for finding in sorted(findings, key=lambda one: one.error is None):
        if finding.error:
            raise finding.error(finding.text)
        logger.warning("%s", finding.text)


def read_settings(spark: SparkSession) -> dict[str, str]:
    """Return those settings of `NAMES` that are set."""
    values: Mapping[str, str | None] = {name: setting(spark, name) for name in NAMES}
    return {name: value for name, value in values.items() if value is not None}


def ask_executors(spark: SparkSession, folder: str | None = None) -> list[Executor]:
    """Return what each executor is that is there, and whether it has the folder; waits for the first.

    Raises:
        ConfigError: their Python cannot run this package.
    """
    n_slots, _ = count_slots(spark)
    with _told_if_none_comes():
        answers = run_tasks(spark, _look, [folder] * n_slots)
    n_more, _ = count_slots(spark)
    if n_more > n_slots:  # the others have come meanwhile
        answers += run_tasks(spark, _look, [folder] * n_more)
    found = {answer["name"]: Executor(**answer) for answer in answers}
    return [found[name] for name in sorted(found)]


def look(folder: str | None = None) -> Executor:
    """Return what this process sees where it runs: on an executor, in a task, or on the driver."""
    context = TaskContext.get()
    gpu = context.resources().get("gpu") if context else None
    host = socket.gethostname()
    return Executor(
        host,
        f"{host} {os.getppid()}",  # the workers of an executor have one parent
        {package: _version(package, module) for package, module in _MODULES.items()},
        _n_gpus(),
        tuple(gpu.addresses) if gpu else (),
        folder is None or os.path.isdir(folder),
    )


def _look(folder: str | None) -> dict[str, Any]:
    return asdict(look(folder))


def _version(package: str, module: str) -> str | None:
    """Return a package's version, without importing it: that takes seconds."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:  # a folder of that name is no package
        return None
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _n_gpus() -> int:
    return len(glob.glob("/dev/nvidia[0-9]*"))


@contextmanager
def _told_if_none_comes() -> Iterator[None]:
    """Say why nothing happens, if the first executor takes long: it may never come."""
    text = (
        "no executor has run a task for %d s: the cluster may have none that is as large as asked for "
        "(spark.executor.cores, spark.executor.memory, spark.executor.resource.gpu.amount)"
    )
    timer = threading.Timer(_PATIENCE_S, logger.warning, (text, _PATIENCE_S))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
