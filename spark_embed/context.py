"""What every step of a run on the driver needs: the session, the options, the folder, the clock, the lock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import SparkSession

from spark_embed.clock import Clock
from spark_embed.config import Config
from spark_embed.output import Output


@dataclass(frozen=True)
class RunContext:
    """One run.

    Attributes:
        check: raises `ResumeError` if this run is no longer the one at work in the output folder; to be
            called before anything is made final.
    """

    spark: SparkSession
    config: Config
    clock: Clock
    output: Output
    check: Callable[[], None]
