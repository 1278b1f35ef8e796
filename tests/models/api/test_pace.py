"""The limits of a key, kept by several processes that know of each other by a file; time is simulated."""

import asyncio
import heapq
from types import SimpleNamespace

import pytest

from spark_embed.models.api import pace as pace_module
from spark_embed.models.api.pace import Pace


class Clock:
    """Time that passes only while everybody sleeps."""

    def __init__(self):
        self.now = 1000.0
        self.sleepers = []

    def monotonic(self):
        return self.now

    async def sleep(self, seconds):
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self.sleepers, (self.now + seconds, id(woken), woken))
        await woken

    async def run(self, until_s):
        while True:
            for _ in range(20):
                await asyncio.sleep(0)
            if not self.sleepers or self.sleepers[0][0] > until_s:
                return
            self.now, _, woken = heapq.heappop(self.sleepers)
            woken.set_result(None)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pace_module, "time", clock)
    monkeypatch.setattr(pace_module, "asyncio", SimpleNamespace(sleep=clock.sleep))
    return clock


def send(clock, paces, *, seconds, units=0.0, latency_s=0.3, on_turn=lambda n: None):
    """Let eight senders of each pace send for so long; returns when each request went."""
    sent = []

    async def sender(pace):
        while True:
            reckoned = await pace.turn()
            sent.append(clock.now)
            on_turn(len(sent))
            await clock.sleep(latency_s)
            pace.settle(reckoned, units)

    async def main():
        tasks = [asyncio.create_task(sender(pace)) for pace in paces for _ in range(8)]
        await clock.run(clock.now + seconds)
        for task in tasks:
            task.cancel()
        clock.sleepers.clear()

    asyncio.run(main())
    return sent


def most_in_a_second(sent):
    return max(sum(at <= other < at + 1 for other in sent) for at in sent)


@pytest.mark.parametrize("n_processes", [1, 3])
def test_a_limit_is_kept_within_two_percent_over_a_minute_and_in_every_second(clock, tmp_path, n_processes):
    paces = [Pace(str(tmp_path / "pace"), 10, None) for _ in range(n_processes)]
    sent = send(clock, paces, seconds=60)
    assert 0.98 * 600 <= len(sent) <= 1.02 * 600
    assert most_in_a_second(sent) <= 11


def test_an_idle_minute_is_not_made_up_for(clock, tmp_path):
    pace = Pace(str(tmp_path / "pace"), 10, None)
    send(clock, [pace], seconds=1)
    clock.now += 60
    assert most_in_a_second(send(clock, [pace], seconds=5)) <= 11


def test_what_the_answers_used_sets_the_pace(clock, tmp_path):
    paces = [Pace(str(tmp_path / "pace"), 100, 50) for _ in range(2)]  # 50 units a second, 20 an answer
    sent = send(clock, paces, seconds=60, units=20)
    assert 0.95 * 150 <= len(sent) <= 1.05 * 150


def test_nobody_sends_while_a_provider_wants_to_be_left_alone(clock, tmp_path):
    paces = [Pace(str(tmp_path / "pace"), 10, None) for _ in range(2)]
    held = []

    def hold(n):
        if n == 30:
            held.append(clock.now)
            paces[0].hold(5)

    sent = send(clock, paces, seconds=20, on_turn=hold)
    assert not [at for at in sent if held[0] < at < held[0] + 5]
    assert [at for at in sent if held[0] + 5 <= at < held[0] + 6]
