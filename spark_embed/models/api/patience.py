"""How often a row is asked about, and when a provider is given up; sends nothing and waits for nobody."""

from __future__ import annotations

import random

from spark_embed.errors import ModelError, RowError
from spark_embed.models.api.replies import PassingError, RefusedError

# The pause after the first failure; it doubles with each. Jitter takes away up to half of it.
_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0
_MAX_RETRY_AFTER_S = 300.0

# Without an answer between them: so many requests that no provider of ours would refuse for the image's sake,
# or so many rows that ran out of attempts, and at least as many as are asked at once.
_MAX_REFUSED = 3
_MAX_FAILED = 10


class Patience:
    """What one process has met since its last answer.

    Args:
        attempts: at a row, in all.
        concurrency: requests at once.
    """

    def __init__(self, attempts: int, concurrency: int) -> None:
        self._attempts = attempts
        self._max_failed = max(_MAX_FAILED, concurrency)
        self.renew()

    def renew(self) -> None:
        """Begin anew: there was an answer."""
        self._n_refused = self._n_failed = 0

    def refused(self, exc: RefusedError, said: str) -> RowError | ModelError:
        """Return what a refusal means, `said` so, with the url: for its row, or for the run."""
        self._n_refused += exc.is_of_all
        if self._n_refused >= _MAX_REFUSED:
            return ModelError(f"{said}: {self._n_refused} requests in a row")
        return RowError("refused", said)

    def pause_s(self, exc: PassingError, said: str, n_failed: int) -> float:
        """Return the seconds until the next attempt at a row, of which `n_failed` have failed.

        Raises:
            RowError: there is none.
            ModelError: the run must stop.
        """
        if exc.wait_s > _MAX_RETRY_AFTER_S:
            raise ModelError(f"{said}: it asks to be left alone for {exc.wait_s:,.0f} s") from exc
        if n_failed >= self._attempts:
            self._n_failed += exc.code != "bad_answer"
            if self._n_failed >= self._max_failed:
                text = f"{said}: {self._n_failed} rows in a row, {n_failed} attempts each"
                raise ModelError(text) from exc
            raise RowError(exc.code, said) from exc
        longest: float = min(_MAX_PAUSE_S, _PAUSE_S * 2 ** (n_failed - 1))
        return max(exc.wait_s, longest * random.uniform(0.5, 1.0))  # noqa: S311  nobody gains by guessing it
