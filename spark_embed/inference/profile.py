"""Where a task's own thread spends its time, function by function; runs on executors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TypeVar

from pyspark import TaskContext

from spark_embed.errors import ConfigError

Item = TypeVar("Item")


def profiled(items: Iterator[Item], folder: str | None) -> Iterator[Item]:
    """Yield `items`; with a folder, also leave a sampling profile of this thread there, as HTML.

    One file a task, on the machine where it ran: stage-3-task-12.html. What Spark does with an item
    between two of them is seen as well; the threads that decode are not (`stage_s` has their seconds).

    Raises:
        ConfigError: pyinstrument is not installed.
    """
    if folder is None:
        return items
    return _profiled(items, folder)


def _profiled(items: Iterator[Item], folder: str) -> Iterator[Item]:
    try:
        from pyinstrument import Profiler
        from pyinstrument.renderers import HTMLRenderer
    except ImportError as exc:
        raise ConfigError("--profile_dir: pip install 'spark-embed[profile]' on the workers") from exc
    profiler = Profiler(async_mode="disabled")
    profiler.start()
    try:
        yield from items
    finally:
        profiler.stop()
        context = TaskContext.get()
        name = f"stage-{context.stageId()}-task-{context.partitionId()}.html" if context else "task.html"
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(profiler.output(HTMLRenderer()))
