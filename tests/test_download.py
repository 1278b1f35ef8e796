"""Urls become rows: the image, or the right error within its time limit, whatever the server does."""

import logging
import multiprocessing
import os
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import replace

import pytest
from bad_server import BadServer, image_bytes
from fakes import MeanColour

from spark_embed import downloads, http_client
from spark_embed.errors import ImageError
from spark_embed.feed import FeedOptions, run_feed
from spark_embed.fetch import DownloadPolicy, FetchPolicy, Reference
from spark_embed.read_ahead import ReadAhead, Row

PATIENCE_S = 20  # how long a test waits for what should happen at once

LOCAL = DownloadPolicy(allow_private_addresses=True)
HASTY = DownloadPolicy(
    connect_timeout_s=0.5, read_timeout_s=0.4, timeout_s=1.5, attempts=2, allow_private_addresses=True
)


@pytest.fixture(scope="module")
def server():
    with BadServer() as server:
        yield server


@pytest.fixture
def own_server():
    """One that nobody has asked for anything yet."""
    with BadServer() as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    yield
    for thread in threading.enumerate():
        if thread.name.startswith(("download", "name", "decode")):
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), thread


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(http_client, "_PAUSE_S", 0.05)


def rows_of(urls, download=LOCAL, **policy) -> list:
    """What the feed makes of urls (or references): the colour in the vector, or the error."""
    references = [url if isinstance(url, Reference) else Reference(uri=url) for url in urls]
    options = FeedOptions(batch_size=8, n_threads=2, fetch=FetchPolicy(download=download, **policy))
    rows = []
    for chunk in run_feed(references, MeanColour(), options):
        vectors = iter(chunk.embedding)
        rows += [error or tuple(next(vectors)[:3].astype(int)) for error in chunk.errors]
    return rows


def colour_of(number: int) -> tuple[int, int, int]:
    return number % 256, number // 256, 100


def error_of(url, download=HASTY, **policy) -> ImageError:
    (error,) = rows_of([url], download, **policy)
    assert isinstance(error, ImageError), error
    return error


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


@pytest.mark.parametrize(
    ("path", "code", "word"),
    [
        ("status/404", "not_found", "HTTP 404"),
        ("status/410", "not_found", "HTTP 410"),
        ("status/401", "forbidden", "HTTP 401"),
        ("status/403", "forbidden", "HTTP 403"),
        ("status/451", "forbidden", "HTTP 451"),
        ("status/418", "fetch_failed", "HTTP 418"),
        ("status/204", "fetch_failed", "HTTP 204"),
        ("status/304", "fetch_failed", "HTTP 304"),
        ("status/500", "fetch_failed", "HTTP 500"),
        ("dead", "timeout", "--fetch_read_timeout_s"),
        ("stalled", "timeout", "--fetch_read_timeout_s"),
        ("trickled_head", "timeout", "--fetch_timeout_s"),
        ("trickled_body", "timeout", "--fetch_timeout_s"),
        ("endless_hints", "timeout", "--fetch_timeout_s"),
        ("endless", "too_many_bytes", "--max_image_bytes"),
        ("endless_chunks", "too_many_bytes", "--max_image_bytes"),
        ("huge", "too_many_bytes", "--max_image_bytes"),
        ("endless_head", "fetch_failed", "/endless_head"),
        ("hangup", "fetch_failed", "/hangup"),
        ("gibberish", "fetch_failed", "/gibberish"),
        ("too_short", "fetch_failed", "/too_short"),
        ("too_long", "fetch_failed", "/too_long"),
        ("bomb", "not_an_image", ""),
        ("circle", "fetch_failed", "--fetch_redirects"),
        ("redirect", "fetch_failed", "nothing is fetched"),
        ("redirect?to=file:///etc/passwd", "fetch_failed", "nothing is fetched"),
        ("redirect?to=ftp://127.0.0.1/a", "fetch_failed", "nothing is fetched"),
        ("redirect?to=http://[bad/", "fetch_failed", "nothing is fetched"),
        ("redirect?to=http://", "fetch_failed", "--fetch_redirects"),
    ],
)
def test_each_misbehaviour_ends_in_its_row_and_in_time(server, path, code, word):
    started = time.monotonic()
    error = error_of(server.url(path), max_bytes=10 << 20)
    assert error.code == code
    assert word in error.detail
    assert time.monotonic() - started < HASTY.timeout_s + 5
    assert server.wait_until_nobody_is_connected()


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://", "fetch_failed"),
        ("http:///a.jpg", "fetch_failed"),
        ("http://[bad/a.jpg", "fetch_failed"),
        ("http://h:99999/a.jpg", "fetch_failed"),
        ("http://" + "a" * 80 + ".org/", "fetch_failed"),
        ("http://a b/", "fetch_failed"),
        ("http://no-such-host.invalid/", "fetch_failed"),
        ("http://ü.invalid/ü\ud800", "fetch_failed"),
        ("s3://bucket/a.jpg", "fetch_failed"),
    ],
)
def test_what_is_no_url_is_a_row(url, code):
    error = error_of(url)
    assert error.code == code
    error.detail.encode()  # it will be a column


def test_a_dead_port_is_asked_as_often_as_told(server):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and not listening
        error = error_of(f"http://127.0.0.1:{nobody.getsockname()[1]}/")
    assert error.code == "fetch_failed"
    assert error.detail.startswith("Connect")


def test_a_server_that_fails_twice_and_then_answers(own_server):
    assert rows_of([own_server.url("flaky/5")], LOCAL) == [colour_of(5)]
    assert own_server.asked["/flaky/5"] == 3


@pytest.mark.parametrize("attempts", [1, 2])
def test_there_are_no_more_attempts_than_allowed(own_server, attempts):
    error = error_of(own_server.url("status/503"), replace(LOCAL, attempts=attempts))
    assert (error.code, own_server.asked["/status/503"]) == ("fetch_failed", attempts)


def test_what_will_not_pass_is_asked_for_once(own_server):
    assert error_of(own_server.url("status/404"), LOCAL).code == "not_found"
    assert own_server.asked["/status/404"] == 1


def test_retry_after_is_honoured_by_all_that_ask_this_host(own_server):
    started = time.monotonic()
    one_at_a_time = replace(LOCAL, concurrency_per_host=1)
    rows = rows_of([own_server.url(f"busy/{n}?after=1") for n in range(4)], one_at_a_time)
    assert rows == [colour_of(n) for n in range(4)]
    assert 1 <= time.monotonic() - started < 1 + PATIENCE_S
    assert sum(own_server.asked.values()) == 5  # nobody but the first was turned away


@pytest.mark.parametrize("after", ["3600", "Fri, 31 Dec 2999 23:59:59 GMT"])
def test_a_host_that_asks_for_more_time_than_there_is_gets_no_second_request(own_server, after):
    started = time.monotonic()
    error = error_of(own_server.url(f"busy/1?after={after.replace(' ', '%20')}"), LOCAL)
    assert error.code == "fetch_failed"
    assert time.monotonic() - started < PATIENCE_S < LOCAL.timeout_s
    assert sum(own_server.asked.values()) == 1


@pytest.mark.parametrize("after", ["soon", "-1", "", "1e9", "٣", "Fri, 99 Foo 2999 99:99:99"])
def test_a_retry_after_that_says_nothing_counts_as_none(own_server, after):
    from urllib.parse import quote

    assert rows_of([own_server.url(f"busy/1?after={quote(after)}")], LOCAL) == [colour_of(1)]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server, status):
    target = server.url("image/3", "localhost")
    urls = [server.url(f"redirect?status={status}&to={to}") for to in ("/image/3", "image/3", target)]
    assert rows_of(urls) == [colour_of(3)] * 3


@pytest.mark.parametrize("redirects", [0, 1, 4])
def test_there_are_no_more_redirects_than_allowed(own_server, redirects):
    error = error_of(own_server.url("circle/0"), replace(HASTY, redirects=redirects))
    assert "--fetch_redirects" in error.detail
    assert sum(own_server.asked.values()) == redirects + 1


REFUSED = ["127.0.0.1", "localhost", "0x7f.1", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "127.1"]


@pytest.mark.parametrize("host", REFUSED)
def test_a_private_address_is_not_connected_to(own_server, host):
    error = error_of(own_server.url("image/1?token=secret", host), DownloadPolicy())
    assert error.code in ("forbidden", "fetch_failed")
    assert error.code == "forbidden" or host == "127.1"  # which is no address in a url
    assert error.code != "forbidden" or "--allow_private_addresses" in error.detail
    assert own_server.n_connections == 0


METADATA = ["169.254.169.254", "[fd00:ec2::254]", "100.100.100.200", "192.0.0.192", "168.63.129.16"]


@pytest.mark.parametrize("host", [*METADATA, "2130706433", "127.0.0.1", "localhost", "[::ffff:7f00:1]"])
def test_every_redirect_is_checked_as_the_first_url_is(own_server, monkeypatch, host):
    """The first hop is let through here; where it leads is refused by the real check."""
    checked = http_client.make_public_socket
    first = ("127.0.0.1", own_server.port)
    let_through = lambda info: socket.socket(*info[:3]) if info[4] == first else checked(info)  # noqa: E731
    monkeypatch.setattr(http_client, "make_public_socket", let_through)
    with BadServer() as inside:
        error = error_of(own_server.url(f"redirect?to=http://{host}:{inside.port}/image/1"), DownloadPolicy())
        assert error.code == ("fetch_failed" if host == "2130706433" else "forbidden")
        assert inside.n_connections == 0
    assert sum(own_server.asked.values()) == 1


def test_the_address_that_a_name_leads_to_is_what_counts(own_server, monkeypatch):
    here = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", own_server.port))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [here])
    error = error_of(own_server.url("image/1", "images.example.org"), DownloadPolicy())
    assert error.code == "forbidden"
    assert own_server.n_connections == 0


def test_no_proxy_of_the_environment_is_used(own_server, monkeypatch):
    monkeypatch.setenv("http_proxy", own_server.url(""))
    assert error_of("http://no-such-host.invalid/").code == "fetch_failed"
    assert own_server.n_connections == 0


SECRET = "hunter2"
WAYS_TO_FAIL = ["status/404", "dead", "hangup", "huge", "circle", "endless_head", "redirect"]


@pytest.mark.parametrize("path", WAYS_TO_FAIL)
def test_secrets_of_a_url_reach_neither_the_row_nor_a_log(server, path, caplog):
    caplog.set_level(logging.DEBUG)
    url = f"http://me:{SECRET}@127.0.0.1:{server.port}/{path}?token={SECRET}#{SECRET}"
    error = error_of(url)
    assert SECRET not in str(error)
    assert SECRET not in caplog.text
    assert f"http://127.0.0.1:{server.port}/{path}" in error.detail


def test_a_password_goes_to_its_host_and_to_no_other(own_server):
    def authorizations():
        return ["Authorization:" in head for head in own_server.requests]

    with BadServer() as other:
        to = other.url("image/1")
        assert rows_of([f"http://me:{SECRET}@127.0.0.1:{own_server.port}/redirect?to={to}"]) == [colour_of(1)]
        assert authorizations() == [True]
        assert "Authorization" not in other.requests[0]
        assert SECRET not in other.requests[0]


def test_requests_name_the_tool_and_ask_for_plain_bytes(own_server):
    rows_of([own_server.url("image/1")])
    head = own_server.requests[0].lower()
    assert "user-agent: spark-embed" in head
    assert "accept-encoding: identity" in head
    assert "cookie" not in head


@pytest.mark.parametrize("path", ["image/1?a=%2B+%20/&b=%zz", "image/1?sig=a%2Fb%3D"])
def test_a_url_that_is_quoted_is_sent_to_the_letter(own_server, path):
    assert rows_of([own_server.url(path)]) == [colour_of(1)]
    assert own_server.requests[0].split()[1] == f"/{path}"


def test_a_url_that_is_not_quoted_is_quoted(own_server):
    assert rows_of([own_server.url("image/1?q=a ü")]) == [colour_of(1)]
    assert own_server.requests[0].split()[1] == "/image/1?q=a+%C3%BC"


def test_idle_connections_do_not_pile_up(own_server, monkeypatch):
    monkeypatch.setattr(http_client, "_MAX_KEPT_SOCKETS", 0)
    rows_of([own_server.url(f"image/{n}") for n in range(20)], replace(LOCAL, concurrency=1))
    closing = ["connection: close" in head.lower() for head in own_server.requests]
    assert closing.count(True) >= 19 - 10  # whenever one was open


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path):
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout k.pem -out c.pem"
    made = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=False)
    if made.returncode:
        pytest.skip("no openssl: a certificate cannot be made")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    with BadServer(context) as server:
        error = error_of(server.url("image/1", "localhost").replace("http:", "https:"))
        assert not server.requests
    assert error.code == "fetch_failed"
    assert "certificate" in error.detail


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
    assert len(next(outcomes).errors) == 8
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
    assert rows._downloads._room.is_full
    rows.release(first)
    assert [row.error for row in rows] == [None, None]
    assert not rows._downloads._room.is_full
    rows.close()
