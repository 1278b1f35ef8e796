"""The command: flags -> session -> pipeline.run -> summary; turns errors into one line and an exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from spark_embed.clock import Clock
from spark_embed.commands import COMMANDS
from spark_embed.config import Config
from spark_embed.early_daemon import start_before_spark
from spark_embed.errors import SparkEmbedError
from spark_embed.load_config import load_config
from spark_embed.logs import start_logging

logger = logging.getLogger(__name__)

INTERRUPTED = 130
_signal_seen = threading.Event()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code (`spark_embed.errors.EXIT_CODES`)."""
    clock = Clock()
    start_logging("dev")
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv and argv[0] in COMMANDS:
            COMMANDS[argv[0]](argv[1:], sys.stdout.write)
            return 0
        config = load_config(argv, os.environ)
        start_logging(config.env)
        start_before_spark()
        sys.stdout.write(_run(config, clock) + "\n")
    except SparkEmbedError as exc:
        logger.error("%s", exc)
        return exc.exit_code
    except KeyboardInterrupt:
        logger.error("interrupted; every row is still there: start again with --overwrite")
        return INTERRUPTED
    return 0


def _run(config: Config, clock: Clock) -> str:
    # Flags first: a wrong one is told before Spark is imported and its JVM started.
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        return _run_with_spark(config, clock)
    except (PySparkException, Py4JError) as exc:
        if _signal_seen.is_set():  # py4j, cut off in the middle of a call, raises errors of its own
            raise KeyboardInterrupt from exc
        logger.debug("all of it", exc_info=exc)
        raise SparkEmbedError(f"the Spark job failed: {first_cause(exc)}") from exc


def _run_with_spark(config: Config, clock: Clock) -> str:
    with clock.measure("start"):
        from pyspark.sql import SparkSession

        from spark_embed import pipeline
        from spark_embed.dry_run import describe_run
        from spark_embed.session import check_machine, make_session, stop_session

        borrowed = SparkSession.getActiveSession()  # a notebook's or a platform's
        if borrowed is None:
            check_machine()
    made: list[SparkSession] = []

    def session() -> SparkSession:
        """Start Spark when the first step needs it: a run that finds nothing to do needs none."""
        if borrowed is not None:
            return borrowed
        if not made:
            with clock.measure("start"):
                made.append(make_session(config))
            _catch_signals()  # instead of pyspark's own, which talks to the JVM from inside
        return made[0]

    _catch_signals()
    try:
        if config.dry_run:
            return describe_run(session, config)
        return pipeline.run(session, config, clock).text()
    finally:
        for spark in made:
            stop_session(spark)


def _catch_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    _signal_seen.set()
    raise KeyboardInterrupt


def first_cause(exc: Exception) -> str:
    """Return the line of a Spark failure that says why, without the stack traces around it."""
    from py4j.protocol import Py4JJavaError

    text = str(exc.java_exception) if isinstance(exc, Py4JJavaError) else str(exc)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("Caused by:") or _is_python_error(line)]
    return (causes or lines or [type(exc).__name__])[-1].removeprefix("Caused by:").strip()


def _is_python_error(line: str) -> bool:
    name, colon, _ = line.partition(": ")
    words = name.split(".")
    return bool(colon) and all(map(str.isidentifier, words)) and name.endswith(("Error", "Exception"))
