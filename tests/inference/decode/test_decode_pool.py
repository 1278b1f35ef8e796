"""The memory that decode threads share: never more than there is, and nobody waits for ever."""

import random
import threading
import zlib

import pytest

from spark_embed.errors import ImageError
from spark_embed.inference.decode.pool import MAX_ABANDONED, DecodeMemory, DecodePool

PATIENCE_S = 20


def test_reservations_never_exceed_the_budget_and_a_larger_image_goes_alone():
    memory = DecodeMemory(100)
    lock, inside, seen = threading.Lock(), [], []

    def work(seed):
        for size in random.Random(seed).choices([1, 30, 60, 100, 500], k=200):
            with memory.reserve(size):
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
    memory = DecodeMemory(100)
    for _ in range(3):
        with pytest.raises(ImageError), memory.reserve(100):
            raise ImageError("corrupt")


@pytest.fixture
def stuck():
    """Until it is set, a decode of "stuck" hangs."""
    return threading.Event()


@pytest.fixture
def make_pool(stuck):
    """Make pools whose threads end with the test."""
    memory, pools = DecodeMemory(100), []

    def work(job):
        with job.decoding(memory, 100):
            if job.given == "stuck":
                assert stuck.wait(PATIENCE_S)
            if job.given == "dies":
                raise ZeroDivisionError("a bug")
        return job.given

    def make_pool(n_threads, limit_s=0.2):
        pools.append(DecodePool(work, lambda given, error: error.code, n_threads, limit_s))
        return pools[-1]

    yield make_pool
    stuck.set()
    for pool in pools:
        pool.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "decode"]


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_stuck_decode_is_given_up_and_the_images_behind_it_go_on(make_pool, n_threads):
    """It held the whole memory memory, and with one thread also the only thread."""
    pool = make_pool(n_threads)
    jobs = [pool.submit(given) for given in ("a", "stuck", "b", "stuck", "c")]
    assert [pool.result(job) for job in jobs] == ["a", "timeout", "b", "timeout", "c"]


def test_without_a_limit_an_image_may_take_as_long_as_it_wants(make_pool, stuck):
    pool = make_pool(1, limit_s=None)
    job = pool.submit("stuck")
    assert not job.wait(0.7)
    stuck.set()
    assert pool.result(job) == "stuck"


def test_too_many_stuck_decodes_fail_the_task(make_pool):
    pool = make_pool(2, limit_s=0.01)
    jobs = [pool.submit("stuck") for _ in range(MAX_ABANDONED + 2)]
    with pytest.raises(RuntimeError, match="decodes of this task took longer"):
        list(map(pool.result, jobs))


def test_a_bug_on_a_decode_thread_comes_out_where_its_result_is_asked_for(make_pool):
    pool = make_pool(1)
    jobs = [pool.submit("dies"), pool.submit("a")]
    with pytest.raises(ZeroDivisionError, match="a bug"):
        pool.result(jobs[0])
    assert pool.result(jobs[1]) == "a"  # the thread lives on
