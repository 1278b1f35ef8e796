"""What is asked of whom: redirects, private addresses, secrets, certificates, a url to the letter."""

import logging
import socket
import ssl
import subprocess
from dataclasses import replace

import pytest

from spark_embed.inference.fetch import http_client
from spark_embed.inference.fetch.references import DownloadPolicy

from support.bad_server import BadServer, colour_of
from support.url_rows import HASTY, error_of, rows_of

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind", "short_pauses")


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
