"""The command: flags -> session -> pipeline.run -> summary; turns errors into one line and an exit code."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from spark_embed.cli.commands import ESTIMATE, describe_commands, find_command
from spark_embed.cli.estimate import EstimateOptions, as_sample, read_estimate_flags
from spark_embed.cli.interruption import Interruption
from spark_embed.cli.lazy_session import LazySession
from spark_embed.config import Config
from spark_embed.errors import ConfigError, SparkEmbedError
from spark_embed.load_config import load_config
from spark_embed.logs import start_logging
from spark_embed.output.folder import Output, check_output
from spark_embed.output.state import read_progress
from spark_embed.platforms import platform
from spark_embed.run.clock import Clock
from spark_embed.spark.early_daemon import start_before_spark
from spark_embed.spark.s3.s3a import export_s3_environment
from spark_embed.storage import existing_folder, folder_path, is_s3

if TYPE_CHECKING:
    from spark_embed.spark.session import Session

logger = logging.getLogger(__name__)

_JAVA_TRACE = "JVM stacktrace:"


class Outcome(NamedTuple):
    """How the command ended.

    Attributes:
        code: the exit code (`spark_embed.errors.EXIT_CODES`).
        error: the line that says what was wrong, if anything was.
    """

    code: int
    error: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(argv).code


def run_command(argv: Sequence[str] | None = None) -> Outcome:
    """Run the command and return how it ended."""
    clock = Clock()
    start_logging("dev")
    argv = sys.argv[1:] if argv is None else argv
    config: Config | None = None
    estimate: EstimateOptions | None = None
    interruption = Interruption(lambda: logger.error("%s", describe_interruption(config, clock)))
    try:
        if argv and argv[0] == ESTIMATE:
            estimate, argv = read_estimate_flags(argv[1:])
        elif argv and not argv[0].startswith("-"):
            find_command(argv[0]).load()(argv[1:], sys.stdout.write)
            return Outcome(0)
        config = load_config(argv, os.environ, describe_commands())
        start_logging(config.env)
        interruption.watch()
        export_s3_environment(config)
        check_folders(config)
        start_before_spark()
        sys.stdout.write(_run(config, clock, interruption, estimate) + "\n")
    except KeyboardInterrupt:
        return Outcome(interruption.say(), "interrupted")
    except SparkEmbedError as exc:
        if interruption.is_seen:
            return Outcome(interruption.say(), "interrupted")
        if exc.summary:
            sys.stdout.write(exc.summary + "\n")
        logger.error("%s", exc)
        return Outcome(exc.exit_code, str(exc))
    except Exception:  # of any kind: whoever a signal cut off in the middle may raise errors of its own
        if interruption.is_seen:
            return Outcome(interruption.say(), "interrupted")
        raise  # a bug, with its traceback
    finally:
        if platform() == "databricks":  # the process is the platform's, and goes on
            interruption.let_go()
    return Outcome(0)


def check_folders(config: Config) -> None:
    """Look at what is on this machine before anything slow begins: a wrong folder is told at once.

    Raises:
        SparkEmbedError: as `check_output`; or --input_dir is no folder.
    """
    for name, uri in (("--input_dir", config.input_dir), ("--output_dir", config.output_dir)):
        folder_path(uri, name)
    if not is_s3(config.input_dir) and config.task != "predict":  # a table may be a file
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


def _run(config: Config, clock: Clock, interruption: Interruption, estimate: EstimateOptions | None) -> str:
    # Flags first: a wrong one is told before Spark is imported and its JVM started.
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        return _run_with_spark(config, clock, interruption, estimate)
    except (PySparkException, Py4JError) as exc:
        if not interruption.is_seen:
            logger.debug("all of it", exc_info=exc)
        raise SparkEmbedError(f"the Spark job failed: {first_cause(exc)}") from exc


def _run_with_spark(
    config: Config, clock: Clock, interruption: Interruption, estimate: EstimateOptions | None
) -> str:
    with clock.measure("start"):
        from spark_embed import pipeline
        from spark_embed.run.dry_run import describe_run
        from spark_embed.spark.context import find_session
        from spark_embed.spark.machine import check_machine

        if find_session() is None:  # told before the input is looked at, which may take long
            check_machine()
    interruption.watch_run(None)
    with LazySession(config, clock, interruption) as session:
        if estimate:
            return _estimate(session, config, clock, estimate)
        if config.dry_run:
            return describe_run(session, config)
        return pipeline.run(session, config, clock).text()


def _estimate(session: Session, config: Config, clock: Clock, wanted: EstimateOptions) -> str:
    from spark_embed.output.estimate import estimate
    from spark_embed.run.sampling import sample_run
    from spark_embed.spark.session import are_workers_elsewhere

    price, price_of = wanted.hourly_price(config)
    if wanted.is_here and are_workers_elsewhere(session):
        raise ConfigError(
            "--output_dir: the workers are on other machines: name a folder that they reach, too; a folder "
            "in it is made and deleted"
        )
    sampled = sample_run(session, as_sample(config), clock, wanted.n_samples)
    found = estimate(sampled, wanted.n_workers or sampled.n_machines, price)
    if wanted.is_json:
        return json.dumps({**found.to_dict(), "price_of": price_of}, indent=2)
    return "\n".join([found.text(), *([f"price   {price_of}"] if price_of else [])])


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
