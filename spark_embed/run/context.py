"""What every step of a run on the driver needs: a session, the options, the folder, the clock, the lock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.output.folder import Output
from spark_embed.run.clock import Clock
from spark_embed.spark.s3.session import adopt_session

Session = Callable[[], SparkSession]
"""Gives the Spark session, always the same; starts it if there is none."""


def as_session(spark: SparkSession | Session, config: Config) -> Session:
    """Return what gives a session, of a session that is there already too.

    Raises:
        ConfigError: the run is on S3, and this session cannot reach it.
    """
    if not isinstance(spark, SparkSession):
        return spark
    adopt_session(spark, config)
    return lambda: spark


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
