"""What the program says while it runs: lines for people, or JSON lines for machines."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

# color_message: uvicorn's, its message once more for a terminal
_STANDARD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message"}

_FOR_PEOPLE = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")


class JsonFormatter(logging.Formatter):
    """One JSON object per line: timestamp, level, logger, message, and the record's `extra` fields.

    Args:
        defaults: None: the extra fields are one object, `fields`. Else they stand beside the message, and
            these are in every line: what a record does not say of them is as given here.
    """

    def __init__(self, defaults: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._defaults = defaults

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        extra = {k: v for k, v in record.__dict__.items() if k not in _STANDARD_FIELDS}
        if self._defaults is None:
            line["fields"] = extra
        else:
            line = {**line, **self._defaults, **extra, **line}  # the first four last: no extra hides them
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def start_logging(env: str) -> None:
    """Send this package's log to stderr: DEBUG for people in dev, JSON lines from INFO on in prod."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if env == "prod" else _FOR_PEOPLE)
    ours = logging.getLogger("spark_embed")
    ours.handlers = [handler]
    ours.setLevel(logging.INFO if env == "prod" else logging.DEBUG)
    ours.propagate = False
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # what it logs, with a traceback, it raises as well
    logging.getLogger().addFilter(_is_news)


def start_service_logging(level: str, style: str) -> None:
    """Send the log of the whole process to stderr, in one format: uvicorn's, libraries' and warnings, too.

    Uvicorn must be told to leave logging alone (`log_config=None`). Its access log stays off, whatever
    uvicorn's `access_log` says: the service's own line of a request has its request_id.

    Args:
        level: from which on this package and uvicorn are heard; of all others warnings are.
        style: "json" (with request_id and queue_depth in every line) or "text".
    """
    handler = logging.StreamHandler(sys.stderr)
    is_json = style == "json"
    handler.setFormatter(JsonFormatter({"request_id": None, "queue_depth": None}) if is_json else _FOR_PEOPLE)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in ("spark_embed", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    for name in ("spark_embed", "uvicorn"):
        logging.getLogger(name).setLevel(level)
    access = logging.getLogger("uvicorn.access")
    access.handlers = []
    access.propagate = False  # uvicorn writes no access log where nobody would hear it
    logging.captureWarnings(capture=True)
    # What Pillow says of an image is in its answer. And Python remembers each warning's text for ever.
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _is_news(record: logging.LogRecord) -> bool:
    """Say whether the root logger should pass a record on: py4j logs there, too, what it raises."""
    return not str(record.msg).endswith("while sending command.")
