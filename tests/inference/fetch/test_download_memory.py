"""Memory for downloads: small ones always fit, large ones wait, the oldest never does."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_embed.inference.fetch.memory import DownloadMemory, MemoryFullError


def test_it_is_full_until_bytes_are_given_back():
    memory = DownloadMemory(100, 10)
    memory.begin(0)
    memory.claim(0, 100, None)
    memory.end(0, keep=True)
    assert memory.is_full
    assert memory.give_back(1)  # somebody may begin now
    assert not memory.is_full
    assert not memory.give_back(99)  # that changes nothing for anybody


def test_a_download_that_failed_keeps_nothing():
    memory = DownloadMemory(100, 10)
    memory.begin(0)
    memory.claim(0, 100, None)
    memory.end(0, keep=False)
    assert not memory.is_full


def test_a_large_one_is_sent_away_by_what_it_announces_and_a_small_one_is_not():
    memory = DownloadMemory(100, 10)
    for number in range(3):
        memory.begin(number)
    memory.claim(0, 95, None)
    memory.claim(1, 10, 10)
    with pytest.raises(MemoryFullError) as caught:
        memory.claim(2, 0, 11)
    assert caught.value.n_bytes == 11


def test_the_oldest_may_take_more_than_there_is():
    memory = DownloadMemory(100, 10)
    memory.begin(0)
    memory.begin(1)
    memory.claim(1, 10, None)
    memory.claim(0, 1000, None)


def test_who_waits_goes_on_when_there_is_room_or_when_it_is_the_oldest():
    async def wait_twice():
        memory = DownloadMemory(100, 10)
        for number in range(3):
            memory.begin(number)
        memory.claim(0, 90, None)
        second = asyncio.create_task(memory.wait_for(1, 50))
        third = asyncio.create_task(memory.wait_for(2, 50))
        await asyncio.sleep(0)
        memory.end(0, keep=True)
        await second  # the oldest now
        assert not third.done()
        assert memory.give_back(90)
        memory.wake()
        await third

    asyncio.run(asyncio.wait_for(wait_twice(), 20))


@given(st.lists(st.integers(1, 200), min_size=1, max_size=30), st.integers(1, 300), st.integers(1, 8))
def test_whatever_the_sizes_all_get_through_and_memory_stays_bounded(sizes, total, n_downloads):
    """The rows are taken in their order, as the feed takes them."""

    async def download_all():
        memory = DownloadMemory(total, n_downloads)
        finished = [asyncio.Event() for _ in sizes]
        most = 0

        async def download(number):
            nonlocal most
            while True:
                try:
                    for n_bytes in range(1, sizes[number] + 1):
                        memory.claim(number, n_bytes, None)
                        most = max(most, memory._used)
                        await asyncio.sleep(0)
                    break
                except MemoryFullError as exc:
                    memory.claim(number, 0, None)
                    await memory.wait_for(number, exc.n_bytes)
            memory.end(number, keep=True)
            finished[number].set()

        async def take_all():
            for number, event in enumerate(finished):
                await event.wait()
                memory.give_back(sizes[number])
                memory.wake()

        async def begin_all():
            tasks = []
            for number in range(len(sizes)):
                while memory.is_full or len(memory._arrived) >= n_downloads:
                    await asyncio.sleep(0)
                memory.begin(number)
                tasks.append(asyncio.create_task(download(number)))
            await asyncio.gather(*tasks)

        await asyncio.gather(take_all(), begin_all())
        assert memory._used == 0
        assert most <= 2 * total + max(sizes)

    asyncio.run(asyncio.wait_for(download_all(), 20))
