"""Whatever a server does, its row says so in time; what may pass is asked for again."""

import socket
import time
from dataclasses import replace

import pytest

from support.bad_server import colour_of
from support.url_rows import HASTY, LOCAL, error_of, rows_of
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind", "short_pauses")


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
        ("gs://bucket/a.jpg", "fetch_failed"),
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
