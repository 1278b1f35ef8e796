"""What a Spark task knows of where it runs: executor, device, cores, attempt; and its worker's model there.

Knows no row and no feed. Everything here runs on executors, and outside of tasks as in a task that Spark told
nothing.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.metadata import version

from pyspark import TaskContext

from spark_embed.inference.malloc import keep_freed_memory
from spark_embed.inference.seats import take_gpu
from spark_embed.models import Model, Recipe, load_model
from spark_embed.secrets import fill_environment


@contextmanager
def placed(recipe: Recipe) -> Iterator[Recipe]:
    """Hold this task's device inside a `with` block; gives the recipe with it: "auto:1" for "auto", GPU 1.

    Spark hands out addresses without hiding the other GPUs (it does not set CUDA_VISIBLE_DEVICES). Without an
    address the recipe stays as it is: the model takes the best that the machine has.
    """
    address = given_gpu()
    if address is None or recipe.device not in ("auto", "gpu"):
        yield recipe
        return
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    with take_gpu(_executor_folder(), address, list(filter(None, visible))) as number:
        yield replace(recipe, device=f"{recipe.device}:{number}")


def given_gpu() -> str | None:
    """Return the address of the GPU that Spark gave this task, of several the first; None for none."""
    context = TaskContext.get()
    gpu = context.resources().get("gpu") if context else None
    return gpu.addresses[0] if gpu and gpu.addresses else None


def explain_unused_gpu(device: str) -> str | None:
    """Return what is wrong where the model is on the CPU, though Spark gave this task a GPU; else None."""
    address = given_gpu()
    if device != "cpu" or address is None:
        return None
    return (
        f"Spark gave a task GPU {address} of host {socket.gethostname()}, but torch {version('torch')} finds "
        "no CUDA there (no driver, or a torch for the CPU): it runs on the CPU (--require_gpu true stops)"
    )


def _executor_folder() -> str | None:
    """Return a folder in the executor's own scratch folder, which Spark names to its workers and deletes."""
    scratch = os.environ.get("SPARK_LOCAL_DIRS", "").partition(",")[0]
    return os.path.join(scratch, "spark_embed-gpus") if os.path.isdir(scratch) else None


@cache
def executor_name() -> str:
    """Return host:pid of the process that started this worker's daemon: the executor's JVM.

    In local mode it may be the driver's Python. Only Linux tells a process's parent; elsewhere it is the
    daemon's pid, which serves as well.
    """
    pid = os.getppid()
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            pid = int(file.read().rpartition(")")[2].split()[1])  # proc(5): pid (name) state ppid
    except OSError:
        pass
    return f"{socket.gethostname()}:{pid}"


def task_cpus() -> int | None:
    """Return the cores that Spark gave this task (spark.task.cpus); None outside a task."""
    context = TaskContext.get()
    return max(1, context.cpus()) if context else None


def has_failed_before() -> bool:
    """Say whether an earlier attempt at this task failed: a decoder may have crashed its worker."""
    context = TaskContext.get()
    return context is not None and context.attemptNumber() > 0


def load_worker_model(recipe: Recipe) -> tuple[Model, bool]:
    """Return this worker's model for a `placed` recipe, and whether this call loaded it.

    From the first load on, torch takes the task's cores and no more: it would take all of the machine's,
    in every worker.
    """
    fill_environment(recipe.secrets)
    model, loaded = load_model(recipe)
    if loaded:
        # A model that has not imported it does without.
        if (n_cpus := task_cpus()) and (torch := sys.modules.get("torch")):
            torch.set_num_threads(n_cpus)
        if TaskContext.get() is not None:
            keep_freed_memory()
            # The PySpark daemon collects garbage after every task: with torch and transformers imported
            # that was a quarter of the worker's time. Frozen objects are not walked again.
            gc.collect()
            gc.freeze()
    return model, loaded


def begin_task(model: Model) -> None:
    """Tell a model that a task begins, if it wants to know."""
    if begin := getattr(model, "begin", None):
        begin()


def end_task(model: Model) -> None:
    """Tell a model that a task has ended, if it wants to know."""
    if end := getattr(model, "end", None):
        end()
