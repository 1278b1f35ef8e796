"""The command: flags -> session -> pipeline.run -> summary; turns errors into one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from spark_embed.cli.check_model import run_check_model
from spark_embed.cli.commands import COMMANDS
from spark_embed.cli.interruption import Interruption
from spark_embed.cli.logs import start_logging
from spark_embed.config import Config
from spark_embed.errors import BadShardsError, SparkEmbedError
from spark_embed.load_config import load_config
from spark_embed.output.folder import Output, check_output
from spark_embed.output.state import read_progress
from spark_embed.run.clock import Clock
from spark_embed.spark.early_daemon import start_before_spark
from spark_embed.spark.s3.s3a import export_s3_environment
from spark_embed.storage import existing_folder, folder_path, is_s3

logger = logging.getLogger(__name__)

_COMMANDS = {**COMMANDS, "check-model": run_check_model}

_JAVA_TRACE = "JVM stacktrace:"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code (`spark_embed.errors.EXIT_CODES`)."""
    clock = Clock()
    start_logging("dev")
    argv = sys.argv[1:] if argv is None else argv
    config: Config | None = None
    interruption = Interruption(lambda: logger.error("%s", describe_interruption(config, clock)))
    try:
        if argv and argv[0] in _COMMANDS:
            _COMMANDS[argv[0]](argv[1:], sys.stdout.write)
            return 0
        config = load_config(argv, os.environ)
        start_logging(config.env)
        interruption.watch()
        export_s3_environment(config)
        check_folders(config)
        start_before_spark()
        sys.stdout.write(_run(config, clock, interruption) + "\n")
    except KeyboardInterrupt:
        return interruption.say()
    except SparkEmbedError as exc:
        if interruption.is_seen:
            return interruption.say()
        if isinstance(exc, BadShardsError) and exc.summary:
            sys.stdout.write(exc.summary + "\n")
        logger.error("%s", exc)
        return exc.exit_code
    except Exception:  # of any kind: whoever a signal cut off in the middle may raise errors of its own
        if interruption.is_seen:
            return interruption.say()
        raise  # a bug, with its traceback
    return 0


def check_folders(config: Config) -> None:
    """Look at what is on this machine before anything slow begins: a wrong folder is told at once.

    Raises:
        SparkEmbedError: as `check_output`; or --input_dir is no folder.
    """
    for name, uri in (("--input_dir", config.input_dir), ("--output_dir", config.output_dir)):
        folder_path(uri, name)
    if not is_s3(config.input_dir):
        existing_folder(config.input_dir, "--input_dir")
    if not is_s3(config.output_dir):
        check_output(config)


def describe_interruption(config: Config | None, clock: Clock) -> str:
    """Return what to say at the end of a run that was interrupted."""
    done = ""
    if config is not None:
        with suppress(SparkEmbedError):
            progress = read_progress(Output(folder_path(config.output_dir, "--output_dir")))
            if progress and progress.started_at == clock.started_at:
                done = f" with {progress.n_complete:,} of {progress.n_rows:,} rows complete"
    return f"interrupted{done}; nothing is lost: start the same command again, and it goes on"


def _run(config: Config, clock: Clock, interruption: Interruption) -> str:
    # Flags first: a wrong one is told before Spark is imported and its JVM started.
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        return _run_with_spark(config, clock, interruption)
    except (PySparkException, Py4JError) as exc:
        if not interruption.is_seen:
            logger.debug("all of it", exc_info=exc)
        raise SparkEmbedError(f"the Spark job failed: {first_cause(exc)}") from exc


def _run_with_spark(config: Config, clock: Clock, interruption: Interruption) -> str:
    with clock.measure("start"):
        from pyspark.sql import SparkSession

        from spark_embed import pipeline
        from spark_embed.run.dry_run import describe_run
        from spark_embed.spark.machine import check_machine
        from spark_embed.spark.session import make_session, silence, stop_session

        borrowed = SparkSession.getActiveSession()  # a notebook's or a platform's
        if borrowed is None:
            check_machine()
    sessions: list[SparkSession] = []

    def session() -> SparkSession:
        """Start Spark when the first step needs it: a run that finds nothing to do needs none."""
        if not sessions and borrowed is not None:
            sessions.append(make_session(config))
        elif not sessions:
            interruption.watch()
            with clock.measure("start"):
                sessions.append(make_session(config, interruption.watch))
            interruption.watch_run(partial(silence, sessions[0]))
        return sessions[0]

    interruption.watch_run(None)
    try:
        if config.dry_run:
            return describe_run(session, config)
        return pipeline.run(session, config, clock).text()
    finally:
        if sessions and borrowed is None:
            stop_session(sessions[0])


def first_cause(exc: Exception) -> str:
    """Return the line of a Spark failure that says why, without the stack traces around it."""
    from py4j.protocol import Py4JJavaError

    text = str(exc.java_exception) if isinstance(exc, Py4JJavaError) else str(exc)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("Caused by:") or _is_python_error(line)]
    if _JAVA_TRACE in lines:  # Spark Connect's: what is wrong stands before it
        lines = lines[: lines.index(_JAVA_TRACE)]
    return (causes or lines or [type(exc).__name__])[-1].removeprefix("Caused by:").strip()


def _is_python_error(line: str) -> bool:
    name, colon, _ = line.partition(": ")
    words = name.split(".")
    return bool(colon) and all(map(str.isidentifier, words)) and name.endswith(("Error", "Exception"))
