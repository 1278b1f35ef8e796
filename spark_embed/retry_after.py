"""How long a server asks to be left alone, by its Retry-After header; knows no client and no server."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after_s(value: str) -> float:
    """Return the seconds of a header, which are a number or end at a date (RFC 9110, 10.2.3).

    0 for what is neither, and for a date that has passed.
    """
    try:
        if value.isascii() and value.strip().isdecimal():
            return float(value)
        until = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
