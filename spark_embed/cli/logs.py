"""What the program says while it runs: lines for people, or JSON lines for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_STANDARD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: timestamp, level, logger, message, and the record's `extra` fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "fields": {k: v for k, v in record.__dict__.items() if k not in _STANDARD_FIELDS},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def start_logging(env: str) -> None:
    """Send this package's log to stderr: DEBUG for people in dev, JSON lines from INFO on in prod."""
    handler = logging.StreamHandler(sys.stderr)
    if env == "prod":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    root = logging.getLogger("spark_embed")
    root.handlers = [handler]
    root.setLevel(logging.INFO if env == "prod" else logging.DEBUG)
    root.propagate = False
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # what it logs, with a traceback, it raises as well
    logging.getLogger().addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Say whether the root logger should pass a record on: py4j logs there, too, what it raises."""
    return not str(record.msg).endswith("while sending command.")
