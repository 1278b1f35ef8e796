"""Waiting for what runs on AWS: a line whenever there is news of it, or of the job that it runs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from spark_embed.aws.job_flags import flag_value
from spark_embed.errors import ConfigError, SparkEmbedError
from spark_embed.output.folder import Output
from spark_embed.output.status import read_status
from spark_embed.storage import folder_path

POLL_S = 10.0
"""Between two looks, at least; half as much more by chance: DescribeStep and DescribeJobs are throttled soon,
for all of an account together."""

Say = Callable[[str], object]


class Detached(SparkEmbedError):  # noqa: N818  says what happened
    """Ctrl-C: who waited is gone, and what runs goes on."""

    exit_code = 130


def news(
    look: Callable[[], Mapping[str, Any]], text: Callable[[Mapping[str, Any]], str], say: Say
) -> Iterator[Mapping[str, Any]]:
    """Yield what `look` sees, again and again, and say its `text` when that has changed."""
    before = ""
    while True:
        seen = look()
        if (now := text(seen)) != before:
            say(now)
            before = now
        yield seen
        time.sleep(POLL_S * (1 + random.random() / 2))  # noqa: S311  no secret


def describe_progress(argv: Sequence[str], *, has_ended: bool) -> str | None:
    """Return how far a job is, in a line, by what it has left in its --output_dir; None: nothing yet.

    Args:
        argv: its flags.
        has_ended: and well. Of one that runs counts only what a run at work says: what is there before is of
            another run.
    """
    folder = flag_value(argv, "--output_dir")
    if folder is None:
        return None
    try:
        status = read_status(Output(folder_path(folder, "--output_dir")))
        return status.line() if has_ended or status.state == "running" else None
    except ConfigError:  # nothing is there yet
        return None
    except SparkEmbedError as exc:
        return f"how far the job is cannot be read: {exc}"
