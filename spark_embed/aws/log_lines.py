"""The line of a log that says what was wrong; knows not where the log is from."""

from __future__ import annotations

import json
import re

from spark_embed.errors import one_line

# spark_embed/logs.py's two formats, then a Python traceback's end, then what Java and Spark say.
_JOB_ERROR = re.compile(r"^\d\d:\d\d:\d\d (?:ERROR|CRITICAL) +(?P<said>.+)$")
_OTHER_ERRORS = (
    re.compile(r"^(?P<said>(?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt)(?:: .+)?)$"),
    re.compile(r"^(?P<said>(?:Caused by: |Exception in thread |bash: |.*\bERROR\b|.*[Ee]rror: ).*)$"),
)
_ENDS = ("ERROR", "CRITICAL")
_LINE_CHARS = 2_000


def find_error(text: str) -> str | None:
    """Return the last line of a log that says what was wrong: the job's own, else Python's, else Java's."""
    lines = [line.strip() for line in text.splitlines()]
    for line in reversed(lines):
        if said := _job_error(line):
            return one_line(said, _LINE_CHARS)
    for pattern in _OTHER_ERRORS:
        for line in reversed(lines):
            if found := pattern.match(line):
                return one_line(found["said"], _LINE_CHARS)
    return None


def _job_error(line: str) -> str | None:
    if found := _JOB_ERROR.match(line):
        return found["said"]
    if line.startswith("{"):
        try:
            entry = json.loads(line)
        except ValueError:
            return None
        if isinstance(entry, dict) and entry.get("level") in _ENDS:
            return str(entry.get("message"))
    return None


def last_line(text: str) -> str:
    """Return the last line of a log that says anything."""
    lines = [line for line in text.splitlines() if line.strip()]
    return one_line(lines[-1], _LINE_CHARS) if lines else ""
