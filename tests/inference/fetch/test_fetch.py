"""A reference gives the bytes of one image, or says why not; nothing outside the allowed folders is read."""

import os
import socket
from pathlib import Path
from urllib.parse import quote

import pytest

from spark_embed.errors import ERROR_DETAIL_CHARS, ImageError
from spark_embed.inference.fetch.references import FetchPolicy, Reference, make_fetch, url_of

CONTENT = b"the bytes of an image"


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder that may be read, with one image, beside one that may not."""
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    (tmp_path / "photos" / "cats" / "a.jpg").write_bytes(CONTENT)
    (tmp_path / "photos-private").mkdir()
    (tmp_path / "photos-private" / "secret.jpg").write_bytes(b"secret")
    return tmp_path / "photos"


def fetch_below(root: Path, uri: str | None, **policy) -> bytes:
    """Fetch as a data set in `root` would: its relative uris start there."""
    return make_fetch(FetchPolicy(roots=(str(root),), **policy))(Reference(None, uri, str(root)))


def error_of(root: Path, uri: str | None, **policy) -> ImageError:
    with pytest.raises(ImageError) as caught:
        fetch_below(root, uri, **policy)
    assert len(caught.value.detail) <= ERROR_DETAIL_CHARS
    return caught.value


@pytest.mark.parametrize("data", [CONTENT, memoryview(CONTENT), b""], ids=["bytes", "view", "empty"])
def test_inline_bytes_come_back_as_the_same_buffer(data):
    assert make_fetch(FetchPolicy())(Reference(data)) is data


def test_inline_bytes_win_over_a_uri(root):
    assert make_fetch(FetchPolicy())(Reference(CONTENT, "https://example.org/a.jpg")) is CONTENT


@pytest.mark.parametrize("uri", [None, "", " \t"])
def test_neither_bytes_nor_uri_is_null_bytes(root, uri):
    assert error_of(root, uri).code == "null_bytes"


@pytest.mark.parametrize("uri", ["cats/a.jpg", "./cats/a.jpg", "cats/../cats//a.jpg"])
def test_a_relative_path_starts_from_the_base(root, uri):
    assert fetch_below(root, uri) == CONTENT


@pytest.mark.parametrize("uri", ["{}/cats/a.jpg", "file:{}/cats/a.jpg", "file://{}/cats/a.jpg"])
def test_an_absolute_path_below_a_root_is_read(root, uri):
    assert fetch_below(root, uri.format(root)) == CONTENT


@pytest.mark.parametrize(
    "name",
    [
        "a b.jpg",
        "100%.jpg",
        "%41.jpg",
        "Köln.jpg",
        "日本.jpg",
        "a#b?c.jpg",
        "new\nline.jpg",
        "-rf",
        "a:b",
        "*[x]",
    ],
)
def test_odd_names_are_read_as_a_path_and_as_a_uri(root, name):
    (root / name).write_bytes(CONTENT)
    assert fetch_below(root, name) == CONTENT
    assert fetch_below(root, f"file://localhost{quote(str(root / name))}") == CONTENT


@pytest.mark.parametrize("uri", [" cats/a.jpg", "cats/a.jpg\n", "\t{}/cats/a.jpg ", " file:{}/cats/a.jpg"])
def test_blanks_around_a_uri_are_not_of_it(root, uri):
    assert fetch_below(root, uri.format(root)) == CONTENT


def test_blanks_around_a_name_are_of_it_where_a_file_is_called_so(root):
    (root / " a.jpg").write_bytes(b"with")
    (root / "a.jpg").write_bytes(b"without")
    assert (fetch_below(root, " a.jpg"), fetch_below(root, "a.jpg ")) == (b"with", b"without")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (" https://a/x.jpg\n", "https://a/x.jpg"),
        ("s3://bucket/x.jpg ", "s3://bucket/x.jpg"),
        (" x.jpg", "s3a://bucket/in/x.jpg"),
        ("ftp://a/x.jpg", None),
        (" ", None),
    ],
)
def test_what_is_downloaded(uri, expected):
    assert url_of(Reference(None, uri, "s3a://bucket/in"), ["s3a://bucket/in"]) == expected


def test_each_of_several_roots_may_be_read(root, tmp_path):
    fetch = make_fetch(FetchPolicy(roots=(str(root / "cats"), str(tmp_path / "photos-private") + "/")))
    assert fetch(Reference(None, f"{root}/cats/a.jpg")) == CONTENT
    assert fetch(Reference(None, f"{tmp_path}/photos-private/secret.jpg")) == b"secret"


def test_a_link_that_stays_below_a_root_and_a_root_that_is_a_link_are_followed(root, tmp_path):
    (root / "link.jpg").symlink_to("cats/a.jpg")
    (tmp_path / "root-link").symlink_to(root)
    assert fetch_below(root, "link.jpg") == CONTENT
    assert fetch_below(tmp_path / "root-link", "link.jpg") == CONTENT


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "file:///%65tc/passwd",
        "../../../../../../../../etc/passwd",
        "../photos-private/secret.jpg",  # begins with the root's name
        "..",
        "cats/../../photos-private/secret.jpg",
        "file:../photos-private/secret.jpg",
        "file-link.jpg",
        "folder-link/secret.jpg",
        "/dev/zero",
        "/no/such/file",  # nor does it say what exists
    ],
)
def test_what_lies_outside_the_roots_is_forbidden(root, uri):
    (root / "file-link.jpg").symlink_to("../photos-private/secret.jpg")
    (root / "folder-link").symlink_to("../photos-private")
    error = error_of(root, uri)
    assert error.code == "forbidden"
    assert "--allowed_roots" in error.detail


def test_without_roots_no_path_may_be_read(root):
    with pytest.raises(ImageError, match="forbidden"):
        make_fetch(FetchPolicy())(Reference(None, f"{root}/cats/a.jpg"))


@pytest.mark.timeout(20)  # a pipe without a writer must not be waited for
@pytest.mark.parametrize(
    "uri",
    [
        "missing.jpg",
        "cats/a.jpg/b.jpg",
        "cats",
        ".",
        "pipe",
        "socket",
        "dead-link",
        "nul\0.jpg",
        "\ud800.jpg",
    ],
)
def test_what_is_no_file_is_not_found(root, uri, monkeypatch):
    os.mkfifo(root / "pipe")
    (root / "dead-link").symlink_to("nowhere")
    monkeypatch.chdir(root)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        error = error_of(root, uri)
    assert error.code == "not_found"
    error.detail.encode()  # it will be a column


@pytest.fixture
def ordinary_user():
    """For root, who may read everything: be nobody for the time of a test."""
    user = os.geteuid()
    try:
        os.seteuid(user or 65534)
    except PermissionError:
        pytest.skip("root here may read everything and may not become another user")
    yield
    os.seteuid(user)


@pytest.mark.parametrize("what", ["cats/a.jpg", "cats"])
def test_what_this_user_may_not_read_is_forbidden(root, what, request):
    (root / what).chmod(0)
    request.getfixturevalue("ordinary_user")
    error = error_of(root, "cats/a.jpg")
    assert error.code == "forbidden"
    assert "permission denied" in error.detail


@pytest.mark.parametrize(
    "uri",
    [
        "http://example.org/a.jpg",
        "HTTPS://example.org/a.jpg",
        "gs://bucket/a.jpg",
        "abfs://bucket/a.jpg",
        "hdfs:/node/a.jpg",
        "ftp://example.org/a.jpg",
        "ipfs:QmExample",
        "git+ssh://example.org/a.jpg",
        "http:/example.org/a.jpg",
        "file://other-host/cats/a.jpg",
        "file://[bad/a.jpg",
    ],
)
def test_other_schemes_and_hosts_are_not_fetched(root, uri):
    error = error_of(root, uri)
    assert error.code == "fetch_failed"
    assert error.detail.startswith(uri.partition(":")[0].lower())


def test_a_url_without_its_scheme_is_told(root):
    error = error_of(root, "//example.org/a.jpg")
    assert error.code == "forbidden"
    assert error.detail == "a path, for a url begins with https:// or its like: //example.org/a.jpg"


def test_a_password_in_a_uri_goes_nowhere(root):
    assert "secret" not in error_of(root, "https://me:secret@example.org/a.jpg?token=secret").detail


def test_the_reason_survives_the_longest_name(root):
    error = error_of(root, "x" * 5000)
    assert error.code == "fetch_failed"
    assert error.detail.startswith("File name too long")


def test_a_loop_of_links_ends(root):
    (root / "loop").symlink_to("loop")
    assert error_of(root, "loop").code == "fetch_failed"


@pytest.mark.parametrize("max_bytes", [len(CONTENT), len(CONTENT) - 1])
def test_the_byte_limit_holds_inline_and_for_files(root, max_bytes):
    inline = make_fetch(FetchPolicy(max_bytes=max_bytes))
    if max_bytes >= len(CONTENT):
        assert inline(Reference(CONTENT)) == fetch_below(root, "cats/a.jpg", max_bytes=max_bytes) == CONTENT
    else:
        assert error_of(root, "cats/a.jpg", max_bytes=max_bytes).code == "too_many_bytes"
        with pytest.raises(ImageError, match="too_many_bytes"):
            inline(Reference(CONTENT))


def test_a_huge_file_is_refused_unread(root):
    with open(root / "huge.jpg", "wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room on the disk
    assert error_of(root, "huge.jpg").code == "too_many_bytes"


def test_no_descriptor_stays_open(root):
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc: open descriptors cannot be listed")
    before = len(os.listdir("/proc/self/fd"))
    for uri in ["cats/a.jpg", "cats", "missing.jpg", "/etc/passwd"] * 3:
        try:
            fetch_below(root, uri, max_bytes=len(CONTENT))
        except ImageError:
            continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_bytes_of_a_url_that_are_no_utf8_are_sent_as_they_are():
    assert url_of(Reference(uri="http://host/caf\udce9.jpg")) == "http://host/caf%E9.jpg"
    assert url_of(Reference(uri="caf\udce9.jpg", base="s3a://b/x"), ["s3a://b"]) == "s3a://b/x/caf\ufffd.jpg"


def test_what_is_missing_is_not_found(root):
    with pytest.raises(ImageError, match="not_found: a link to nothing"):
        make_fetch(FetchPolicy(roots=(str(root),)))(Reference(missing="a link to nothing"))
