"""The command as a task inside a platform's own process: it ends by returning, and fails by an exception."""

from __future__ import annotations

from spark_embed.cli.main import run_command


class TaskFailed(SystemExit):
    """The end of a task that failed: its text says what was wrong, its `code` is the exit code."""

    def __init__(self, error: str, code: int) -> None:
        super().__init__(error)
        self.code = code


def run() -> None:
    """Run the command with the arguments of this process.

    Databricks takes what a wheel's entry point returns for success, whatever it is, and any SystemExit, of
    exit code 0, too, for a failure, of which it shows the text.

    Raises:
        TaskFailed: the exit code is not 0.
    """
    outcome = run_command()
    if outcome.code:
        raise TaskFailed(outcome.error, outcome.code)
