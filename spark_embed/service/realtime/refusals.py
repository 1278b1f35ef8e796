"""Why a request gets no answer: a status, a code and a sentence, in one JSON shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spark_embed.errors import RowError
from spark_embed.service.realtime.batcher import whole_seconds

CLIENT_GONE = 499
"""The status that nginx counts a client as that did not wait; nobody receives it."""

_STATUS_OF_CODES = {"timeout": 504, "fetch_failed": 502, "model_error": 500, "bad_vector": 500}
"""Of a row's errors. All others are the image's or the text's own: 422."""


class RefusedError(Exception):
    """A request is refused.

    Args:
        status: HTTP's.
        code: one of a closed set.
        message: one sentence that says what to do.
        retry_after_s: when to try again.
        allow: the methods that there are, of a 405.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        retry_after_s: float | None = None,
        *,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
        self.allow = allow

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(whole_seconds(self.retry_after_s))
        if self.allow is not None:
            headers["Allow"] = self.allow
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def refused_row(error: RowError, where: str = "") -> RefusedError:
    """Return the refusal of a request whose only row is an error row."""
    status = _STATUS_OF_CODES.get(error.code, 422)
    return RefusedError(status, error.code, f"{where}{error.detail or error.code}")


def describe_error(code: str, message: str) -> dict[str, Any]:
    """Return an error as JSON has it, of a request or of a row."""
    return {"code": code, "message": message}


def error_body(code: str, message: str, request_id: str) -> Mapping[str, Any]:
    """Return the body of every refusal."""
    return {"error": {**describe_error(code, message), "request_id": request_id}}
