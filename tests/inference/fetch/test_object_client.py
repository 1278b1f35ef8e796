"""Images that are objects: many at once, in order, and what is wrong with one is no matter of the others."""

import os
import shutil
import ssl
import subprocess
import threading
import time
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from spark_embed.errors import ERROR_DETAIL_CHARS, ImageError, StorageError
from spark_embed.inference.fetch.references import DownloadPolicy, FetchPolicy, Reference
from spark_embed.storage.s3.requests import ObjectRequests

from support.bad_server import colour_of, image_bytes
from support.feeds import ReadAhead
from support.url_rows import rows_of
from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind", "short_s3_pauses")

N = 150


@pytest.fixture(scope="module")
def full(s3_server) -> str:
    """A bucket of images that are told apart by their colours."""
    bucket = s3_server.make_bucket()
    put_images(s3_server, bucket, N)
    return bucket


@pytest.fixture
def root(full, bucket) -> str:
    """A folder of them; not to be changed."""
    return f"s3a://{full}/in"


@pytest.fixture
def own_root(s3_server, bucket) -> str:
    """A folder of a few."""
    put_images(s3_server, bucket, 20)
    return f"s3a://{bucket}/in"


def put_images(server, bucket: str, n_images: int) -> None:
    for n in range(n_images):
        put(server, bucket, f"in/{n}.jpg", image_bytes(n))


def put(server, bucket: str, key: str, body: bytes) -> None:
    server.direct.put_object(Bucket=bucket, Key=key, Body=body)


def rows(root: str, names, **policy) -> list:
    """What the feed makes of objects below a folder."""
    given = {"roots": (root,), **policy}
    return rows_of([Reference(uri=str(name), base=root) for name in names], DownloadPolicy(), **given)


def error_of(root: str, name: str, **policy) -> ImageError:
    (error,) = rows(root, [name], **policy)
    assert isinstance(error, ImageError), error
    return error


def names(numbers=range(N)) -> list[str]:
    return [f"{n}.jpg" for n in numbers]


class TestMany:
    def test_come_back_in_their_order(self, root, bad_s3):
        assert rows(root, names()) == [colour_of(n) for n in range(N)]
        assert bad_s3.requests == {"GetObject": N}

    def test_come_back_by_whatever_of_the_schemes(self, root):
        bucket = root.split("/")[2]
        uris = [f"{scheme}://{bucket}/in/7.jpg" for scheme in ("s3", "s3a", "S3N")]
        assert rows("", uris, roots=(f"s3://{bucket}/elsewhere",)) == [colour_of(7)] * 3

    def test_are_lost_to_no_fault(self, root, bad_s3):
        bad_s3.rate, bad_s3.delay_s = 0.2, 0.05
        assert rows(root, names()) == [colour_of(n) for n in range(N)]
        assert {fault for fault, _ in bad_s3.met} == {"slow_down", "reset", "delay", "cut"}

    def test_are_lost_to_no_outage(self, root, bad_s3, monkeypatch):
        monkeypatch.setattr("spark_embed.storage.s3.patience.MAX_PAUSE_S", 0.5)
        bad_s3.down()
        threading.Timer(1.5, bad_s3.up).start()
        assert rows(root, names()) == [colour_of(n) for n in range(N)]

    def test_ask_for_no_more_at_once_than_allowed(self, root, bad_s3):
        bad_s3.rate, bad_s3.faults, bad_s3.delay_s = 1.0, ("delay",), 1.5
        policy = FetchPolicy((root,), download=replace(DownloadPolicy(), concurrency=5))
        ahead = ReadAhead((Reference(uri=f"{root}/{n}.jpg") for n in range(20)), policy)
        with closing(ahead):
            assert ahead.next() is None
            wait_until(lambda: bad_s3.requests["GetObject"] >= 5, "nothing is asked")
            time.sleep(0.2)
            assert bad_s3.requests["GetObject"] == 5
            bad_s3.rate = 0.0
            assert [row.error for row in ahead] == [None] * 20

    def test_are_not_asked_for_before_they_fit_into_memory(self, s3_server, bucket, bad_s3):
        for n in range(12):
            put(s3_server, bucket, f"{n}", bytes(100_000))
        policy = replace(DownloadPolicy(), memory_bytes=250_000, concurrency=2)
        uris = [f"s3://{bucket}/{n}" for n in range(12)]
        ahead = ReadAhead((Reference(uri=uri) for uri in uris), FetchPolicy((uris[0],), download=policy))
        with closing(ahead):
            ahead.wait()
            time.sleep(0.3)
            assert ahead._downloads._memory._used <= 600_000
            assert [row.n_bytes for row in ahead] == [100_000] * 12


ODD_KEYS = [
    "a b.jpg",
    "a+b.jpg",
    "a%20b.jpg",
    "ü/名.jpg",
    "#?&=;:@!$'()*,.jpg",
    "%.jpg",
    "~.jpg",
    "x..jpg",
    "[1].jpg",
]


def test_a_key_may_hold_anything(s3_server, bucket, bad_s3):
    for n, key in enumerate(ODD_KEYS):
        put(s3_server, bucket, key, image_bytes(n))
    assert rows(f"s3a://{bucket}", ODD_KEYS) == [colour_of(n) for n in range(len(ODD_KEYS))]
    asked = [asked.path.removeprefix(f"/{bucket}/") for asked in bad_s3.asked]
    assert sorted(asked) == sorted(ODD_KEYS)


class TestOneThatIsWrong:
    @pytest.mark.parametrize("key", ["missing.jpg", "7.jpg/x", "x" * 300, "ü" * 1000])
    def test_is_not_found(self, root, key):
        error = error_of(root, key)
        assert (error.code, error.detail) == ("not_found", f"{root}/{key}"[:ERROR_DETAIL_CHARS])

    def test_is_no_object_at_all(self, root):
        bucket = f"s3://{root.split('/')[2]}"
        assert [row.code for row in rows("", [bucket, f"{bucket}/"], roots=(bucket,))] == ["not_found"] * 2

    def test_is_denied(self, s3_server, bucket, own_root, monkeypatch):
        user = s3_server.make_user("MARKEDUSEROFIMAGES", "MARKED-SECRET-OF-IMAGES")
        s3_server.allow(bucket, user.access_key)
        s3_server.deny(bucket, user.access_key, "in/3")
        user.set_environment(monkeypatch)
        found = rows(own_root, names(range(2, 5)))
        assert [found[0], found[2]] == [colour_of(2), colour_of(4)]
        detail = f"access denied (s3:GetObject): {own_root}/3.jpg"
        assert (found[1].code, found[1].detail) == ("forbidden", detail)

    def test_is_in_a_bucket_of_no_root(self, root, bad_s3):
        error = error_of(root, "1.jpg", roots=("/data", "s3a://another"))
        assert error.code == "forbidden"
        assert f"--allowed_roots s3://{root.split('/')[2]}" in error.detail
        assert not bad_s3.asked

    @pytest.mark.parametrize("max_bytes", [10, 0])
    def test_is_too_large(self, root, max_bytes):
        error = error_of(root, "1.jpg", max_bytes=max_bytes)
        assert error.code == "too_many_bytes"
        assert f"more than {max_bytes} bytes (--max_image_bytes): {root}/1.jpg" in error.detail

    def test_is_empty_or_no_image(self, s3_server, bucket, own_root):
        put(s3_server, bucket, "in/empty.jpg", b"")
        put(s3_server, bucket, "in/text.jpg", b"text")
        codes = [row.code for row in rows(own_root, ["empty.jpg", "text.jpg"])]
        assert codes == ["not_an_image", "not_an_image"]

    def test_leaves_the_others_as_they_are(self, root):
        mixed = [f"{n}.jpg" if n % 3 else f"missing/{n}.jpg" for n in range(60)]
        found = [getattr(row, "code", row) for row in rows(root, mixed)]
        assert found == [colour_of(n) if n % 3 else "not_found" for n in range(60)]


class TestTheRun:
    """What is wrong with the run is no error of its images."""

    def stopped(self, root: str, **policy) -> str:
        with pytest.raises(StorageError) as told:
            rows(root, names(range(40)), **policy)
        text = str(told.value)
        assert "\n" not in text
        assert "MARKED-" not in text
        return text

    def test_stops_at_keys_that_are_refused_in_the_middle(self, s3_server, bucket, own_root, monkeypatch):
        user = s3_server.make_user("MARKEDUSERTHATGOES", "MARKED-SECRET-OF-WHO-GOES")
        s3_server.allow(bucket, user.access_key)
        user.set_environment(monkeypatch)
        policy = FetchPolicy((own_root,), download=replace(DownloadPolicy(), concurrency=1, memory_bytes=1))
        ahead = ReadAhead((Reference(uri=f"{own_root}/{n}.jpg") for n in range(20)), policy)
        with closing(ahead):
            rows_of_it = iter(ahead)
            assert next(rows_of_it).error is None
            s3_server.delete_user(user.access_key)
            with pytest.raises(StorageError) as told:
                list(rows_of_it)
        assert "the store does not accept these credentials" in str(told.value)
        assert "MARKED-" not in str(told.value)

    def test_stops_at_a_wrong_secret(self, s3_server, root, monkeypatch):
        s3_server.seen_by(s3_server.access_key, "MARKED-WRONG-SECRET").set_environment(monkeypatch)
        text = self.stopped(root)
        assert text.startswith(f"{root}/0.jpg: cannot be read: the store does not accept these credentials")

    def test_stops_without_credentials(self, s3_server, root, monkeypatch):
        s3_server.seen_by_nobody().set_environment(monkeypatch)
        assert "no AWS credentials; set AWS_ACCESS_KEY_ID" in self.stopped(root)

    def test_stops_at_a_bucket_that_is_missing(self, bucket):
        assert "there is no bucket no-such-b; check its name" in self.stopped("s3a://no-such-b/in")

    def test_stops_at_a_store_that_stays_away(self, root, bad_s3):
        bad_s3.rate, bad_s3.faults = 1.0, ("slow_down",)
        assert self.stopped(root).endswith("cannot be read: the store answered SlowDown, 12 times")
        bad_s3.down()
        assert self.stopped(root).endswith("12 times")

    def test_stops_at_a_key_that_cannot_be_sent(self, s3_server, root, monkeypatch):
        monkeypatch.setenv("AWS_SESSION_TOKEN", "MARKED-SECRET\nTOKEN")
        assert "character that cannot be sent" in self.stopped(root)


class TestWhoAsks:
    def test_is_nobody_in_a_public_bucket(self, s3_server, bucket, own_root, monkeypatch):
        s3_server.make_public(bucket)
        s3_server.seen_by_nobody().set_environment(monkeypatch)
        monkeypatch.setenv("SPARK_EMBED_ANONYMOUS_BUCKETS", f"other, {bucket}")
        assert rows(own_root, names(range(20))) == [colour_of(n) for n in range(20)]
        monkeypatch.setenv("SPARK_EMBED_ANONYMOUS_BUCKETS", "")
        monkeypatch.setenv("SPARK_EMBED_ANONYMOUS", "true")
        assert rows(own_root, names(range(20))) == [colour_of(n) for n in range(20)]

    def test_is_nobody_in_one_bucket_and_somebody_in_another(self, s3_server, bucket, own_root, monkeypatch):
        s3_server.make_public(bucket)
        private = s3_server.make_bucket()
        put(s3_server, private, "7.jpg", image_bytes(7))
        monkeypatch.setenv("SPARK_EMBED_ANONYMOUS_BUCKETS", bucket)
        uris = [f"{own_root}/5.jpg", f"s3://{private}/7.jpg"] * 10
        assert rows("", uris, roots=tuple(uris)) == [colour_of(5), colour_of(7)] * 10

    def test_may_have_keys_for_a_while_only(self, s3_server, root, monkeypatch):
        """The server knows no such keys; AWS wants the token among the headers that are signed."""
        monkeypatch.setenv("AWS_SESSION_TOKEN", "MARKED-TOKEN")
        requests = ObjectRequests()
        uri = f"{root}/ü 1.jpg"
        headers = requests.headers(uri, requests.url(uri))
        assert headers["X-Amz-Security-Token"] == "MARKED-TOKEN"
        assert "x-amz-security-token" in headers["Authorization"].partition("SignedHeaders=")[2]
        assert s3_server.secret_key not in str(headers)

    def test_is_who_the_environment_says_now(self, s3_server, bucket, root, monkeypatch):
        s3_server.seen_by("MARKEDNOBODY", "MARKED-SECRET").set_environment(monkeypatch)
        with pytest.raises(StorageError):
            rows(root, ["1.jpg"])
        s3_server.set_environment(monkeypatch)
        assert rows(root, ["1.jpg"]) == [colour_of(1)]

    def test_is_who_a_file_says_now(self, s3_server, root, monkeypatch, tmp_path):
        """A tool may write new keys to it every hour."""
        file = tmp_path / "credentials"
        s3_server.seen_by_nobody().set_environment(monkeypatch)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        file.write_text("[default]\naws_access_key_id=MARKEDOLD\naws_secret_access_key=MARKED-SECRET\n")
        with pytest.raises(StorageError, match="does not accept these credentials"):
            rows(root, ["1.jpg"])
        keys = f"aws_access_key_id={s3_server.access_key}\naws_secret_access_key={s3_server.secret_key}\n"
        file.write_text(f"[default]\n{keys}")
        os.utime(file, (0, 0))
        assert rows(root, ["1.jpg"]) == [colour_of(1)]


def test_nothing_stays_open(root, bad_s3):
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("no /proc: open files cannot be listed")
    rows(root, names(range(20)))
    wait_until(lambda: not bad_s3._links, "a connection stays open")
    before = len(os.listdir("/proc/self/fd"))
    rows(root, [*names(range(20)), "missing.jpg"])
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "a file stays open")


class Answering(BaseHTTPRequestHandler):
    """Gives the image of colour 7 for whatever is asked; keeps what that was."""

    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.requestline.split(" ")[1])
        self.send_response(200)
        self.send_header("Content-Length", str(len(image_bytes(7))))
        self.end_headers()
        self.wfile.write(image_bytes(7))

    def log_message(self, *_):
        pass


@pytest.fixture
def answering():
    """Its address, and what it was asked."""
    Answering.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class TestTheWay:
    """As the SDK goes it."""

    def test_leads_through_a_proxy_where_there_is_one(self, s3_server, bucket, monkeypatch, answering):
        s3_server.seen_through("http://store.example:9000").set_environment(monkeypatch)
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{answering.server_port}")
        assert rows("s3a://b", ["7.jpg"]) == [colour_of(7)]
        assert Answering.asked == ["http://store.example:9000/b/7.jpg"]
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        s3_server.seen_through(f"http://127.0.0.1:{answering.server_port}").set_environment(monkeypatch)
        assert rows("s3a://b", ["7.jpg"]) == [colour_of(7)]
        assert Answering.asked[1:] == ["/b/7.jpg"]

    @pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl: no certificate can be made")
    def test_is_safe_by_the_authority_of_the_store(self, s3_server, bucket, monkeypatch, answering, tmp_path):
        made = [f"-{name}={tmp_path / name}" for name in ("keyout", "out")]
        command = (
            "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=store -addext subjectAltName=IP:127.0.0.1"
        )
        pairs = [part for option in made for part in option.split("=")]
        subprocess.run([*command.split(), *pairs], check=True, capture_output=True)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / "out", tmp_path / "keyout")
        answering.socket = context.wrap_socket(answering.socket, server_side=True)
        s3_server.seen_through(f"https://127.0.0.1:{answering.server_port}").set_environment(monkeypatch)
        monkeypatch.setattr("spark_embed.storage.s3.patience.PATIENT_ATTEMPTS", 2)
        with pytest.raises(StorageError, match="ClientConnectorCertificateError"):
            rows("s3a://b", ["7.jpg"])
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "out"))
        assert rows("s3a://b", ["7.jpg"]) == [colour_of(7)]
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing"))
        with pytest.raises(
            StorageError, match=r"missing: no certificates that can be read \(AWS_CA_BUNDLE\)"
        ):
            rows("s3a://b", ["7.jpg"])
