"""Batches: their size, their order, whom they wait for, and what leaves them."""

import asyncio
import threading
import weakref
from dataclasses import replace

import pytest

from spark_embed.live.model import Ready
from spark_embed.service.realtime.batcher import (
    Batcher,
    HungError,
    Limits,
    PredictError,
    QueueFullError,
)
from spark_embed.service.realtime.metrics import Metrics

LIMITS = Limits(
    batch_size=4, batch_wait_s=30, max_queue_size=100, max_queue_bytes=1000, answer_within_s=60, hang_s=60
)


class Device:
    """Doubles numbers; can be held, and told to fail."""

    def __init__(self):
        self.batches = []
        self.n_checks = 0
        self.failures = []
        self.open, self.check_open = threading.Event(), threading.Event()
        self.open.set()
        self.check_open.set()

    def predict(self, prepared):
        self.batches.append([one.number for one in prepared])
        assert self.open.wait(60)
        self._maybe_fail()
        return [2 * one.number for one in prepared]

    def check(self):
        self.n_checks += 1
        assert self.check_open.wait(60)
        self._maybe_fail()

    def _maybe_fail(self):
        if self.failures:
            raise self.failures.pop()


class Prepared:
    """A number that can be watched being let go."""

    def __init__(self, number):
        self.number = number


async def prepare(given):
    """A number is ready with ten bytes, a text is an answer already; of a future, what it comes to."""
    if isinstance(given, asyncio.Future):
        given = await given
    if isinstance(given, Exception):
        raise given
    return given if isinstance(given, str) else Ready(Prepared(given), 10)


def batched(scenario, limits=LIMITS):
    """Run a scenario beside a batcher, which must be empty in the end; returns what the device saw."""
    device, metrics = Device(), Metrics("numbers")

    async def main():
        batcher = Batcher(prepare, lambda batch: device.predict(batch), device.check, limits, metrics)
        running = asyncio.create_task(batcher.run())
        try:
            await scenario(batcher, device, running)
        finally:
            device.open.set()
            device.check_open.set()
            running.cancel()
            await asyncio.wait({running})
        assert batcher.n_queued == batcher._n_ready_bytes == 0
        assert b'inference_queue_depth{model="numbers"} 0.0' in metrics.exposition()

    asyncio.run(asyncio.wait_for(main(), 60))
    return device


def ask(batcher, *given):
    return asyncio.create_task(batcher.answer(given))


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


async def answers(*tasks):
    return [[done.answer for done in await task] for task in tasks]


def test_images_of_many_requests_share_batches_in_order():
    async def scenario(batcher, device, running):
        device.open.clear()
        first = ask(batcher, 0)
        await until(lambda: device.batches)
        tasks = [ask(batcher, 1, 2), ask(batcher, 3), ask(batcher, 4, 5, 6)]
        await until(lambda: batcher.n_queued == 6)
        device.open.set()
        assert await answers(first, *tasks) == [[0], [2, 4], [6], [8, 10, 12]]

    device = batched(scenario)
    assert [len(batch) for batch in device.batches] == [1, 4, 2]
    assert [number for batch in device.batches for number in batch] == list(range(7))


def test_a_lone_image_waits_for_nobody():
    async def scenario(batcher, device, running):
        assert await answers(ask(batcher, 7)) == [[14]]  # or the 30 s of batch_wait_s go by

    assert batched(scenario).batches == [[7]]


def test_a_batch_waits_for_what_is_being_prepared_but_no_longer_than_it_may():
    async def scenario(batcher, device, running):
        late = asyncio.get_running_loop().create_future()
        slow = ask(batcher, late)
        await until(lambda: batcher._n_preparing == 1)
        quick = ask(batcher, 1)
        await until(lambda: batcher._ready or quick.done())
        if batcher.limits.batch_wait_s > 1:
            late.set_result(3)
            assert await answers(slow, quick) == [[6], [2]]
        else:
            assert await answers(quick) == [[2]]
            late.set_result(3)
            assert await answers(slow) == [[6]]

    assert [sorted(batch) for batch in batched(scenario).batches] == [[1, 3]]
    assert batched(scenario, replace(LIMITS, batch_wait_s=0.01)).batches == [[1], [3]]


def test_what_a_full_batch_does_not_need_is_prepared_once_the_one_before_it_has_ended():
    async def scenario(batcher, device, running):
        device.open.clear()
        first = ask(batcher, 0)
        await until(lambda: device.batches)
        full = ask(batcher, 1, 2, 3, 4)
        await until(lambda: len(batcher._ready) == 4)
        later = ask(batcher, 5, 6, "bad")
        await until(lambda: batcher.n_queued == 7)
        assert batcher._n_preparing == 0
        assert len(batcher._ready) == 4
        device.open.set()
        assert await answers(first, full, later) == [[0], [2, 4, 6, 8], [10, 12, "bad"]]

    assert batched(scenario).batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_an_answer_that_preparing_gives_goes_to_no_batch_and_its_failure_is_its_own():
    async def scenario(batcher, device, running):
        bad, good = await ask(batcher, "bad", 5)
        assert (bad.answer, bad.batch_size) == ("bad", 0)
        assert (good.answer, good.batch_size) == (10, 1)
        with pytest.raises(KeyError):
            await ask(batcher, KeyError("a bug"), 6)
        assert await answers(ask(batcher, 7)) == [[14]]

    assert batched(scenario).batches[0] == [5]


def test_who_is_cancelled_leaves_the_queue_and_the_batch_and_memory():
    async def scenario(batcher, device, running):
        device.open.clear()
        first = ask(batcher, 0)
        await until(lambda: device.batches)
        late = asyncio.get_running_loop().create_future()
        gone, stays = ask(batcher, 1, 2, late), ask(batcher, 3)
        await until(lambda: len(batcher._ready) == 3)
        held = weakref.ref(batcher._ready[0].ready.prepared)
        gone.cancel()
        await asyncio.wait({gone})
        assert late.cancelled()
        assert (batcher.n_queued, batcher._n_ready_bytes, held()) == (1, 10, None)
        device.open.set()
        assert await answers(first, stays) == [[0], [6]]

    assert batched(scenario).batches == [[0], [3]]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_queue_size": 3}, "full: 3 images wait"),
        ({"max_queue_bytes": 30}, "full: 3 images wait, of 30 bytes"),
    ],
)
def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(limits, message):
    async def scenario(batcher, device, running):
        await answers(ask(batcher, 9))  # a pace is known
        device.open.clear()
        first = ask(batcher, 0)
        await until(lambda: len(device.batches) == 2)
        waiting = [ask(batcher, 1, 2), ask(batcher, 3)]
        await until(lambda: len(batcher._ready) == 3)
        with pytest.raises(QueueFullError, match=message) as caught:
            await batcher.answer([4])
        assert caught.value.retry_after_s > 0
        device.open.set()
        assert await answers(first, *waiting) == [[0], [2, 4], [6]]
        assert await answers(ask(batcher, 4)) == [[8]]  # there is room again

    batched(scenario, replace(LIMITS, batch_wait_s=0.001, **limits))


def test_who_would_not_be_answered_in_time_is_refused_at_once():
    async def scenario(batcher, device, running):
        batcher._image_s = 0.5
        device.open.clear()
        first = ask(batcher, 0)
        await until(lambda: device.batches)
        waiting = ask(batcher, *range(1, 6))
        await until(lambda: batcher.n_queued == 5)
        with pytest.raises(QueueFullError, match=r"5 images wait, which takes 2\.5 s") as caught:
            batcher.check_room(1)
        assert caught.value.retry_after_s == pytest.approx(0.5)
        device.open.set()
        await answers(first, waiting)

    batched(scenario, replace(LIMITS, answer_within_s=2))


def test_a_slow_image_beside_few_is_no_pace():
    async def scenario(batcher, device, running):
        late = asyncio.get_running_loop().create_future()
        slow = ask(batcher, late)
        await answers(ask(batcher, 1))
        await asyncio.sleep(0.2)  # what counts as time is what this is about
        late.set_result(2)
        await answers(slow)
        assert batcher._image_s < 0.1

    batched(scenario, replace(LIMITS, batch_wait_s=0.001))


@pytest.mark.parametrize("failure", [ValueError("a bug"), StopIteration("a bug"), SystemExit("a bug")])
def test_a_batch_that_fails_fails_alone_and_the_model_is_tried_before_the_next(failure):
    async def scenario(batcher, device, running):
        device.failures = [failure]
        with pytest.raises(PredictError, match="a bug"):
            await ask(batcher, 1)
        assert await answers(ask(batcher, 2)) == [[4]]
        assert (device.n_checks, batcher.failure) == (1, None)

    batched(scenario)


@pytest.mark.parametrize("numbers", [[], [1, 2]])
def test_a_model_that_gives_another_number_of_answers_has_failed(numbers):
    async def scenario(batcher, device, running):
        device.predict = lambda _: numbers
        with pytest.raises(PredictError, match=f"gave {len(numbers)} answers for 1 images"):
            await ask(batcher, 1)

    batched(scenario)


@pytest.mark.parametrize("where", ["in predict", "in the trial after a failure"])
def test_a_model_that_hangs_ends_it_and_all_that_wait_are_told(where):
    async def scenario(batcher, device, running):
        device.failures = [] if where == "in predict" else [ValueError("a bug")]
        device.open.clear()
        late = asyncio.get_running_loop().create_future()
        first = ask(batcher, 1)
        await until(lambda: device.batches)
        waiting, preparing = ask(batcher, 2), ask(batcher, late)
        if where != "in predict":
            device.check_open.clear()
            device.open.set()
        for one in (first, waiting, preparing):
            with pytest.raises(PredictError):
                await one
        with pytest.raises(HungError, match=r"not ended within 0\.2 s"):
            await running

    batched(scenario, replace(LIMITS, hang_s=0.2))


def test_a_model_that_does_not_recover_ends_it_and_all_that_wait_are_told():
    async def scenario(batcher, device, running):
        device.failures = [RuntimeError("gone for good"), ValueError("a bug")]
        device.open.clear()
        first = ask(batcher, 1)
        await until(lambda: device.batches)
        waiting = ask(batcher, 2)
        await until(lambda: batcher._ready)
        device.open.set()
        for one in (first, waiting):
            with pytest.raises(PredictError, match="a bug"):
                await one
        with pytest.raises(RuntimeError, match="gone for good"):
            await running

    batched(scenario)
