"""The command as a platform's task: it ends by returning, and fails in a way that a platform understands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from spark_embed.cli.main import run_command
from spark_embed.errors import StoppedError
from spark_embed.platforms import platform


class TaskError(RuntimeError):
    """The end of a task that failed, inside a process that goes on; its text says what was wrong."""


def run(task: Sequence[str] = ()) -> None:
    """Run the command with the arguments of this process, after those of `task`, which they beat.

    Databricks executes the file of a task in an IPython shell: a SystemExit there, of exit code 0, too, is no
    end but an error of the platform's (INTERNAL_ERROR), which it tries again whatever max_retries says. What
    the entry point of a wheel returns, on the other hand, it does not look at.

    Raises:
        TaskError: the command failed, on Databricks.
        SystemExit: it failed, in a process of its own.
    """
    outcome = run_command([*task, *sys.argv[1:]])
    if outcome.code == StoppedError.exit_code and platform() == "databricks":
        return  # told already; as a failure it would be tried again, with all its hours and money anew
    if outcome.code and platform() == "databricks":
        raise TaskError(outcome.error)
    if outcome.code:
        sys.exit(outcome.code)
