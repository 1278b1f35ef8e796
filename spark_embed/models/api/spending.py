"""What the answers of a run have cost, and whether more may be asked; asks nobody and keeps nothing."""

from __future__ import annotations

import asyncio
import math
import time

from spark_embed.errors import StoppedError
from spark_embed.models import Site
from spark_embed.models.api.answers import Answers
from spark_embed.models.api.file import ApiFile
from spark_embed.models.api.providers import cost_usd

_LOOK_S = 1.0


class Spending:
    """The limit of a run's spending, of which all its tasks spend.

    Args:
        api: with the prices.
        answers: of all of them.
        site: with the limit.
    """

    def __init__(self, api: ApiFile, answers: Answers, site: Site) -> None:
        self._api, self._answers, self._site = api, answers, site
        self._look_at = math.inf if site.max_cost is None else 0.0
        self._next_look = 0.0
        self._looking = asyncio.Lock()

    async def check(self) -> None:
        """Stop where the limit is reached.

        What other processes have spent is looked up whenever all of them could, at this one's speed, have
        spent a half of what was left; at most once a second, unless this one alone has spent it all.

        Raises:
            StoppedError: it is.
        """
        if self._may_go_on():
            return
        async with self._looking:  # one looks for all that wait
            if self._may_go_on():
                return
            self._check_left()
            await asyncio.to_thread(self._answers.refresh)
            self._next_look = time.monotonic() + _LOOK_S
            self._check_left()

    def _may_go_on(self) -> bool:
        spent, limit = self._spent(), self._site.max_cost or math.inf
        return spent < self._look_at or (spent < limit and time.monotonic() < self._next_look)

    def _check_left(self) -> None:
        left = (self._site.max_cost or 0.0) - self._spent()
        if left <= 0:
            raise StoppedError(
                f"stopped at --max_cost {self._site.max_cost:g} (answers for {self._spent():,.2f} USD, which "
                "are kept)"
            )
        self._look_at = self._spent() + left / 2 / self._site.n_tasks

    def _spent(self) -> float:
        n_answers, usage = self._answers.usage
        return cost_usd(self._api, usage, n_answers) - self._site.paid_before
