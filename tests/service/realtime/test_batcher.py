"""Batches: their size, their order, whom they wait for, and what leaves them."""

import asyncio
import threading

import pytest

from spark_embed.service.realtime.batcher import Batcher, Limits, PredictError, QueueFullError

LIMITS = Limits(batch_size=4, batch_wait_s=30, max_queue_size=100, answer_within_s=60, hang_s=60, n_threads=8)


class Device:
    """Doubles numbers; can be held, and told to fail."""

    def __init__(self):
        self.batches = []
        self.n_checks = 0
        self.failures = []
        self.open = threading.Event()
        self.open.set()

    def predict(self, numbers):
        self.batches.append(numbers)
        assert self.open.wait(60)
        if self.failures:
            raise self.failures.pop()
        return [2 * number for number in numbers]

    def check(self):
        self.n_checks += 1
        if self.failures:
            raise self.failures.pop()


class Watch:
    def __init__(self):
        self.depths, self.ran_images = [], []

    def queued(self, n_images):
        self.depths.append(n_images)

    def ran(self, n_images, waited_s):
        assert len(waited_s) == n_images
        self.ran_images.append(n_images)


def batched(scenario, limits=LIMITS):
    """Run a scenario beside a batcher, which must be empty in the end; returns what the device saw."""
    device, watch = Device(), Watch()

    async def main():
        batcher = Batcher(device.predict, lambda made: isinstance(made, str), device.check, limits, watch)
        running = asyncio.create_task(batcher.run())
        try:
            await scenario(batcher, device, running)
        finally:
            device.open.set()
            running.cancel()
            await asyncio.wait({running})
        assert batcher.n_queued == watch.depths[-1] == 0

    asyncio.run(asyncio.wait_for(main(), 60))
    return device


def ask(batcher, *numbers):
    return asyncio.create_task(batcher.answer([lambda number=number: number for number in numbers]))


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
        await until(lambda: len(batcher._ready) == 6)
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
        release = threading.Event()
        slow = asyncio.create_task(batcher.answer([lambda: release.wait(60) and 3]))
        await until(lambda: batcher._n_preparing == 1)
        quick = ask(batcher, 1)
        await until(lambda: batcher._ready)
        if batcher.limits.batch_wait_s > 1:
            release.set()
            assert await answers(slow, quick) == [[6], [2]]
        else:
            assert await answers(quick) == [[2]]
            release.set()
            assert await answers(slow) == [[6]]

    assert [sorted(batch) for batch in batched(scenario).batches] == [[1, 3]]
    brief = Limits(4, 0.01, 100, 60, 60, n_threads=8)
    assert batched(scenario, brief).batches == [[1], [3]]


def test_an_answer_that_preparing_gives_goes_to_no_batch():
    async def scenario(batcher, device, running):
        tasks = [asyncio.create_task(batcher.answer([lambda: "bad", lambda: 5]))]
        ((bad, good),) = [await task for task in tasks]
        assert (bad.answer, bad.batch_size) == ("bad", 0)
        assert (good.answer, good.batch_size) == (10, 1)

    assert batched(scenario).batches == [[5]]


def test_who_is_cancelled_leaves_the_queue_and_the_batch():
    async def scenario(batcher, device, running):
        device.open.clear()
        first = ask(batcher, 0)
        await until(lambda: device.batches)
        gone, stays = ask(batcher, 1, 2), ask(batcher, 3)
        await until(lambda: len(batcher._ready) == 3)
        gone.cancel()
        await asyncio.wait({gone})
        assert batcher.n_queued == 1
        device.open.set()
        assert await answers(first, stays) == [[0], [6]]

    assert batched(scenario).batches == [[0], [3]]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again():
    async def scenario(batcher, device, running):
        await answers(ask(batcher, 9))  # a pace is known
        device.open.clear()
        first = ask(batcher, 0)
        await until(lambda: len(device.batches) == 2)
        waiting = [ask(batcher, 1, 2), ask(batcher, 3)]
        await until(lambda: batcher.n_queued == 3)
        with pytest.raises(QueueFullError, match="full: 3 images wait") as caught:
            await batcher.answer([lambda: 4])
        assert caught.value.retry_after_s > 0
        device.open.set()
        assert await answers(first, *waiting) == [[0], [2, 4], [6]]
        assert await answers(ask(batcher, 4)) == [[8]]  # there is room again

    batched(scenario, Limits(4, 0.001, 3, 60, 60, n_threads=8))


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

    batched(scenario, Limits(4, 0.001, 100, 2, 60, n_threads=8))


def test_a_batch_that_fails_fails_alone_and_the_model_is_tried_before_the_next():
    async def scenario(batcher, device, running):
        device.failures = [ValueError("a bug")]
        failed = ask(batcher, 1)
        with pytest.raises(PredictError, match="ValueError: a bug"):
            await failed
        assert await answers(ask(batcher, 2)) == [[4]]
        assert (device.n_checks, batcher.failure) == (1, None)

    batched(scenario)


@pytest.mark.parametrize("numbers", [[], [1, 2]])
def test_a_model_that_gives_another_number_of_answers_has_failed(numbers):
    async def scenario(batcher, device, running):
        device.predict = batcher._predict = lambda _: numbers
        with pytest.raises(PredictError, match=f"gave {len(numbers)} answers for 1 images"):
            await ask(batcher, 1)

    batched(scenario)


def test_a_model_that_does_not_recover_or_hangs_ends_it():
    async def broken(batcher, device, running):
        device.failures = [RuntimeError("gone for good"), ValueError("a bug")]
        with pytest.raises(PredictError, match="a bug"):
            await ask(batcher, 1)
        with pytest.raises(RuntimeError, match="gone for good"):
            await running

    async def hung(batcher, device, running):
        device.open.clear()
        with pytest.raises(PredictError, match=r"not ended within 0\.05 s"):
            await ask(batcher, 1)
        with pytest.raises(PredictError):
            await running

    batched(broken)
    batched(hung, Limits(4, 0.001, 100, 60, 0.05))
