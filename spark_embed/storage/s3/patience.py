"""When a request to the store is sent again, and after what pause; sends nothing itself.

The SDK's own way ("standard") has one budget for all threads of a client, which ends it for all of them after
some dozens of retries, in a second or two, where ten threads wait for a store that is away.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# 12 attempts bridge a store that is away for a minute, whatever the luck with the pauses, and end after two.
# The first look, before anything has been done, gives up sooner.
PATIENT_ATTEMPTS = 12
_IMPATIENT_ATTEMPTS = 5
MAX_PAUSE_S = 20.0
_SCALE_S = 0.15  # a store that was busy for one request in five should not cost seconds each time

_BUSY_STATUS = {408, 429, 500, 502, 503, 504}
# Others that may come with a 400, a 403 or a 409: of the last two S3 says that one should try again.
_BUSY_CODES = {
    *("RequestTimeout", "RequestTimeoutException", "SlowDown", "Throttling", "ThrottlingException"),
    *("RequestLimitExceeded", "BandwidthLimitExceeded", "TooManyRequestsException", "ServiceUnavailable"),
    *("InternalError", "ConditionalRequestConflict", "OperationAborted"),
}

_of_thread = threading.local()


@contextmanager
def impatient() -> Iterator[None]:
    """Give up sooner in this thread: a wrong endpoint should not take minutes to be told."""
    before, _of_thread.is_impatient = is_impatient(), True
    try:
        yield
    finally:
        _of_thread.is_impatient = before


def is_impatient() -> bool:
    """Say whether this thread gives up sooner."""
    return getattr(_of_thread, "is_impatient", False)


def max_attempts() -> int:
    """Return how often this thread tries something in all."""
    return _IMPATIENT_ATTEMPTS if is_impatient() else PATIENT_ATTEMPTS


def pause_s(n_failed: int) -> float:
    """Return the pause after so many attempts have failed, at least one: 0.3 s at most after one.

    Half of it is left to chance, to spread the threads ("equal jitter"). Were it all of it, one thread of
    hundreds would draw short pauses only, and give up while the others wait.
    """
    return random.uniform(0.5, 1.0) * min(MAX_PAUSE_S, _SCALE_S * 2.0**n_failed)  # noqa: S311


class Tries:
    """Counts the attempts at something that no request of the SDK's own can repeat."""

    def __init__(self) -> None:
        self._n_failed = 0

    def start_over(self) -> None:
        """Count anew: some of it was done."""
        self._n_failed = 0

    def wait(self, exc: Exception) -> None:
        """Wait before another attempt.

        Raises:
            Exception: `exc`, where there were enough.
        """
        self._n_failed += 1
        if self._n_failed >= max_attempts():
            raise exc
        time.sleep(pause_s(self._n_failed))


def pause_before_retry(
    response: Any = None, caught_exception: Exception | None = None, attempts: int = 1, **_: Any
) -> float | None:
    """Return the pause before the SDK sends a request again; None if it should not.

    A handler of botocore's event needs-retry.

    Args:
        response: the HTTP response, and the same parsed; None if there was none.
        caught_exception: why there was none.
        attempts: made so far.
    """
    if attempts >= max_attempts():
        return None
    if response is None:
        again = is_passing(caught_exception)
    else:
        answer, parsed = response
        again = is_busy(answer.status_code, parsed.get("Error", {}).get("Code", ""))
    return pause_s(attempts) if again else None


def is_passing(exc: BaseException | None) -> bool:
    """Say whether another attempt may not meet this error of the SDK's HTTP client."""
    from botocore.exceptions import ConnectionError, HTTPClientError

    # A header, or an address, of characters that cannot be sent: what was to be sent is wrong.
    is_ours = isinstance(getattr(exc, "kwargs", {}).get("error"), ValueError)
    return isinstance(exc, ConnectionError | HTTPClientError) and not is_ours


def is_busy(status: int, code: str) -> bool:
    """Say whether an answer, by its HTTP status and its error code, may be another one next time."""
    return status in _BUSY_STATUS or code in _BUSY_CODES
