"""A Spark session for a command: started when it is first asked for, and stopped at the command's end."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from spark_embed.cli.interruption import Interruption
from spark_embed.config import Config
from spark_embed.run.clock import Clock

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class LazySession:
    """Gives the session that is there (a notebook's, a platform's), else starts one; `with`, then call.

    What finds nothing to do needs no Spark, and starts none.

    Args:
        config: the options.
        clock: measures the start.
        interruption: of a run that has looked at the machine already; is told of the start, then of the run.
    """

    def __init__(
        self, config: Config, clock: Clock | None = None, interruption: Interruption | None = None
    ) -> None:
        self._config = config
        self._clock = clock or Clock()
        self._interruption = interruption
        self._session: SparkSession | None = None
        self._is_ours = False

    def __enter__(self) -> LazySession:
        return self

    def __call__(self) -> SparkSession:
        """Return the session.

        Raises:
            SparkEmbedError: as `make_session`.
        """
        from spark_embed.spark.context import find_session
        from spark_embed.spark.session import make_session

        if self._session is None:
            self._is_ours = find_session() is None
            self._session = self._start() if self._is_ours else make_session(self._config)
        return self._session

    def _start(self) -> SparkSession:
        from spark_embed.spark.machine import check_machine
        from spark_embed.spark.session import make_session, silence

        if self._interruption is None:
            check_machine()
            return make_session(self._config)
        self._interruption.watch()
        with self._clock.measure("start"):
            session = make_session(self._config, self._interruption.watch)
        self._interruption.watch_run(partial(silence, session))
        return session

    def __exit__(self, *exc: object) -> None:
        from spark_embed.spark.session import stop_session

        if self._session is not None and self._is_ours:
            stop_session(self._session)
