"""What every step of a run on the driver needs: a session, the options, the folder, the clock, the lock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.output.folder import Output
from spark_embed.run.clock import Clock
from spark_embed.spark.session import Session


@dataclass(frozen=True)
class RunContext:
    """One run.

    Attributes:
        session: starting Spark takes seconds, and a run that finds nothing to do needs none.
        watch: raises `StorageError` or `ResumeError` if the lock has not been renewed for too long; costs
            nothing.
        check: raises `ResumeError` if this run is no longer the one at work in the output folder; to be
            called before anything is made final.
    """

    session: Session
    config: Config
    clock: Clock
    output: Output
    check: Callable[[], None]
    watch: Callable[[], None] = lambda: None

    @property
    def spark(self) -> SparkSession:
        """The session, started if it was not."""
        return self.session()
