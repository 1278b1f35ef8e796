"""The memory that decode threads share: never more than there is, and nobody waits for ever."""

import random
import threading
import zlib

import pytest

from spark_embed.errors import ImageError
from spark_embed.feed import ByteBudget

PATIENCE_S = 20


def test_reservations_never_exceed_the_budget_and_a_larger_image_goes_alone():
    budget = ByteBudget(100)
    lock, inside, seen = threading.Lock(), [], []

    def work(seed):
        for size in random.Random(seed).choices([1, 30, 60, 100, 500], k=200):
            with budget.reserve(size):
                with lock:
                    inside.append(size)
                    seen.append(list(inside))
                zlib.crc32(bytes(1 << 18))  # gives the GIL away, so that others come
                with lock:
                    inside.remove(size)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
    assert len(seen) == 6 * 200
    assert all(sum(sizes) <= 100 or sizes == [500] for sizes in seen)


def test_an_error_gives_its_reservation_back():
    budget = ByteBudget(100)
    for _ in range(3):
        with pytest.raises(ImageError), budget.reserve(100):
            raise ImageError("corrupt")
