"""The thread that downloads: rows in their order, limits that hold, and nothing left behind."""

import multiprocessing
import os
import threading
import time
from dataclasses import replace

import pytest

from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.fetch import downloads, http_client
from spark_embed.inference.fetch.read_ahead import Row
from spark_embed.inference.fetch.references import FetchPolicy, Reference

from support.bad_server import colour_of, image_bytes
from support.fakes import MeanColour
from support.feeds import ReadAhead, run_feed
from support.url_rows import HASTY, LOCAL, rows_of
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind", "short_pauses")


def test_images_come_back_in_their_order_whatever_comes_first(server):
    urls = [server.url(f"late/{n}?s={0.2 if n % 10 == 0 else 0}") for n in range(300)]
    assert rows_of(urls) == [colour_of(n) for n in range(300)]


def test_urls_files_bytes_and_errors_mix(server, tmp_path):
    (tmp_path / "a.jpg").write_bytes(image_bytes(7))
    mixed = []
    for n in range(50):
        mixed += [
            Reference(image_bytes(n)),
            Reference(uri=server.url(f"image/{n}")),
            Reference(uri="a.jpg", base=str(tmp_path)),
            Reference(),
            Reference(uri=server.url("status/404")),
        ]
    rows = rows_of(mixed, roots=(str(tmp_path),))
    codes = [getattr(row, "code", row) for row in rows]
    assert codes[:5] == [colour_of(0), colour_of(0), colour_of(7), "null_bytes", "not_found"]
    assert codes[5::5] == codes[6::5] == [colour_of(n) for n in range(1, 50)]
    assert [codes[i::5] for i in (2, 3, 4)] == [[code] * 50 for code in codes[2:5]]


def test_inline_bytes_win_over_a_url_and_start_no_thread(server):
    rows = ReadAhead(iter([Reference(b"x", "http://192.0.2.1/")] * 3), FetchPolicy())
    assert [bytes(row.reference.inline) for row in rows] == [b"x"] * 3
    assert not [thread for thread in threading.enumerate() if thread.name == "download"]


def test_idle_connections_do_not_pile_up(own_server, monkeypatch):
    monkeypatch.setattr(http_client, "_MAX_KEPT_SOCKETS", 0)
    rows_of([own_server.url(f"image/{n}") for n in range(20)], replace(LOCAL, concurrency=1))
    closing = ["connection: close" in head.lower() for head in own_server.requests]
    assert closing.count(True) >= 19 - 10  # whenever one was open


def test_connections_are_used_again(own_server):
    rows_of([own_server.url(f"image/{n}") for n in range(200)], replace(LOCAL, concurrency=4))
    assert own_server.n_connections <= 4


@pytest.mark.parametrize(("concurrency", "per_host", "expected"), [(8, 3, 3), (3, 8, 3), (1, 1, 1)])
def test_no_more_at_once_than_allowed(own_server, concurrency, per_host, expected):
    policy = replace(LOCAL, concurrency=concurrency, concurrency_per_host=per_host)
    rows_of([own_server.url(f"late/{n}?s=0.02") for n in range(40)], policy)
    assert own_server.most_at_once == expected


def test_a_slow_host_does_not_hold_up_the_others(own_server):
    """Its queue takes longer than a row's time limit, which does not count while it waits for its turn."""
    policy = replace(LOCAL, concurrency=4, concurrency_per_host=2, timeout_s=1.0)
    urls = [own_server.url(f"late/{n}?s=0.4", "localhost" if n % 2 else "127.0.0.1") for n in range(24)]
    assert rows_of(urls, policy) == [colour_of(n) for n in range(24)]


def test_redirects_between_busy_hosts_do_not_lock_each_other_up(own_server):
    policy = replace(LOCAL, concurrency=1, concurrency_per_host=1)
    here, there = own_server.url("image/{}"), own_server.url("image/{}", "localhost")
    urls = []
    for n in range(20):
        urls.append(own_server.url(f"redirect?to={there.format(n)}"))
        urls.append(own_server.url(f"redirect?to={here.format(n)}", "localhost"))
    assert rows_of(urls, policy) == [colour_of(n) for n in range(20) for _ in range(2)]


@pytest.mark.parametrize("memory_bytes", [1, 30_000, 300_000])
def test_images_larger_than_the_memory_for_them_arrive_all_the_same(server, memory_bytes):
    policy = replace(LOCAL, memory_bytes=memory_bytes, concurrency=8)
    urls = [server.url(f"padded/{n}?n={(n * 7919) % 60_000}") for n in range(60)]
    assert rows_of(urls, policy) == [colour_of(n) for n in range(60)]


def test_what_waits_to_be_decoded_stays_within_its_memory(own_server):
    """The first row is late: all others arrive before anything can be decoded."""
    n_bytes = 50_000
    policy = replace(LOCAL, memory_bytes=10 * n_bytes, concurrency=4)
    urls = [own_server.url("late/0?s=1"), *[own_server.url(f"padded/{n}?n={n_bytes}") for n in range(1, 100)]]
    asked_meanwhile = []

    class Watching(ReadAhead):
        def wait(self):
            super().wait()
            if not asked_meanwhile:
                asked_meanwhile.append(sum(own_server.asked.values()))

    rows = Watching((Reference(uri=url) for url in urls), FetchPolicy(download=policy))
    try:
        assert [row.error for row in rows] == [None] * 100
    finally:
        rows.close()
    assert 10 <= asked_meanwhile[0] <= 1 + 10 + 2 * policy.concurrency


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="no /proc: open files cannot be listed")
def test_no_file_stays_open(own_server):
    rows_of([own_server.url("image/1")])
    assert own_server.wait_until_nobody_is_connected()
    before = open_files()
    for path in ("image/1", "dead", "hangup", "redirect?to=/circle"):
        rows_of([own_server.url(path)] * 3, HASTY)
        assert own_server.wait_until_nobody_is_connected()
        assert open_files() == before


def test_a_feed_that_is_given_up_ends_its_downloads_and_connections(own_server):
    urls = [own_server.url(f"image/{n}") for n in range(8)] + [own_server.url("dead")] * 100
    options = FeedOptions(batch_size=8, fetch=FetchPolicy(download=LOCAL))
    outcomes = run_feed((Reference(uri=url) for url in urls), MeanColour(), options)
    assert next(outcomes).n_rows == 8
    assert [thread for thread in threading.enumerate() if thread.name == "download"]
    outcomes.close()
    assert own_server.wait_until_nobody_is_connected()


class BugError(Exception):
    pass


def test_a_failing_model_ends_the_downloads_too(own_server):
    def fail(batch):
        raise BugError

    options = FeedOptions(batch_size=2, fetch=FetchPolicy(download=LOCAL))
    references = [Reference(uri=own_server.url(path)) for path in ["image/1", "image/2", "dead"]]
    with pytest.raises(BugError):
        list(run_feed(references, MeanColour(during_predict=fail), options))
    assert own_server.wait_until_nobody_is_connected()


def test_a_bug_in_a_download_fails_the_task(server, monkeypatch):
    async def fail(*args):
        raise BugError

    monkeypatch.setattr(http_client.HttpClient, "get", fail)
    with pytest.raises(BugError):
        rows_of([server.url("image/1")])


@pytest.mark.parametrize("moment", ["at once", "later"])
def test_a_thread_that_dies_fails_the_task_with_the_cause(server, monkeypatch, moment):
    async def die(self):
        if moment == "later":
            await downloads.asyncio.sleep(0.1)
        raise BugError

    monkeypatch.setattr(downloads.Downloads, "_serve", die)
    with pytest.raises(RuntimeError, match="has died") as caught:
        rows_of([server.url("dead")] * 3)
    assert isinstance(caught.value.__cause__, BugError)


def fetch_in_child(url, queue) -> None:
    queue.put(rows_of([url]))


def test_a_process_forked_from_one_that_downloads_can_download(server):
    """As Spark's workers are forked from its daemon."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    rows = ReadAhead(iter([Reference(uri=server.url("image/1"))] * 2), FetchPolicy(download=LOCAL))
    rows.wait()
    child = context.Process(target=fetch_in_child, args=(server.url("image/9"), queue))
    child.start()
    child.join(PATIENCE_S)
    assert child.exitcode == 0
    assert queue.get() == [colour_of(9)]
    rows.close()


def test_the_seconds_of_downloads_are_told_apart_from_the_wait_for_them(server):
    urls = [server.url(f"late/{n}?s=0.2") for n in range(16)]
    options = FeedOptions(batch_size=8, fetch=FetchPolicy(download=LOCAL))
    started = time.perf_counter()
    chunks = list(run_feed((Reference(uri=url) for url in urls), MeanColour(), options))
    wall_s = time.perf_counter() - started
    totals = {name: sum(chunk.seconds[name] for chunk in chunks) for name in chunks[0].seconds}
    assert totals["download_s"] >= 16 * 0.2
    assert 0.15 <= totals["download_wait_s"] <= wall_s


def test_a_row_holds_its_bytes_until_it_is_released(server):
    policy = FetchPolicy(download=replace(LOCAL, memory_bytes=1))
    rows = ReadAhead(iter([Reference(uri=server.url("image/1"))] * 3), policy)
    rows.wait()
    first = rows.next()
    assert isinstance(first, Row)
    assert first.n_bytes == len(image_bytes(1))
    assert rows._downloads._memory.is_full
    rows.release(first)
    assert [row.error for row in rows] == [None, None]
    assert not rows._downloads._memory.is_full
    rows.close()
