"""The page's routes: what they answer, and what they refuse; a browser looks at the page elsewhere."""

import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from spark_embed.cli.main import main
from spark_embed.errors import ConfigError, ImageError, ModelError, StorageError
from spark_embed.inference.decode import decode
from spark_embed.search.build import build_index
from spark_embed.search.explore import app as routes
from spark_embed.search.explore import door, explorer, server
from spark_embed.search.index import Index
from spark_embed.search.where import PLAIN, Where

from support.image_files import encode, noise_image, png_bomb
from support.output_files import list_anew, make_output, rewrite
from support.vector_sets import clustered, publish_vectors
from support.waiting import wait_until

JSON = {"content-type": "application/json"}
ODD = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>'",
    "🦔 שלום \u202eabc",
    "x" * 10_000,
    "${7*7} {{7*7}} &amp; \\ ' -- ;",
    "\x00\x07\n\t",
    "",
]
N_ROWS = 14


class Pictures:
    """Rows' pictures, of which some cannot be had."""

    def __init__(self, root: str) -> None:
        self.reads: list[tuple[str, int]] = []

    def read(self, shard: str, row: int) -> bytes:
        """As the job's own fetch."""
        self.reads.append((shard, row))
        if shard == "b.parquet":
            raise ImageError("not_found", "/secret/place of a file")
        return {0: b"no image", 1: png_bomb(), 2: encode(noise_image(900, 600), "PNG")}.get(
            row, encode(noise_image(64, 48))
        )


class Model:
    """A vector of an image is its mean colour, one of words their letters."""

    takes_text = True

    def __init__(self, root: str, column: str, given: object, *, with_text: bool = False) -> None: ...

    def of_image(self, data: bytes) -> np.ndarray:
        """Decode it as the job does."""
        return np.append(decode(data).mean(axis=(0, 1)), 1).astype(np.float32)

    def of_text(self, text: str) -> np.ndarray:
        """Count its letters."""
        return np.array([text.count(letter) + 0.1 for letter in "abcd"], dtype=np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("explore") / "out"
    output = make_output(root, n_files=1)

    def with_odd(table: pa.Table) -> pa.Table:
        captions = [*ODD, *table["caption"].to_pylist()[len(ODD) :]]
        table = table.set_column(0, "caption", pa.array(captions))
        table = table.append_column("image_id", pa.array([f"photo {row}" for row in range(len(table))]))
        return table.append_column("n", pa.array([2**60 + row for row in range(len(table))]))

    rewrite(root / "embeddings.parquet/part-00000.parquet", with_odd)
    list_anew(output)
    build_index(str(root))
    return root


def open_client(root: Path, monkeypatch, model=Model, **options) -> TestClient:
    monkeypatch.setattr(explorer, "Pictures", Pictures)
    monkeypatch.setattr(explorer, "QueryModel", model)
    shown = explorer.Explorer(Index.open(str(root)))
    return TestClient(routes.make_app(shown, **options), base_url="http://localhost:8080")


@pytest.fixture(scope="module")
def client(root):
    with pytest.MonkeyPatch.context() as patch, open_client(root, patch) as client:
        wait_until(lambda: client.get("/api/info").json()["model"]["state"] == "ready", "the model")
        yield client


def ask(client: TestClient, **values: object) -> list[dict]:
    answer = client.post("/api/search", json=values)
    assert answer.status_code == 200, answer.text
    return answer.json()["hits"]


def refused(answer, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    error = answer.json()["error"]
    assert error["code"] == code
    assert "\n" not in error["message"]
    assert "Traceback" not in answer.text
    assert "/secret" not in answer.text
    return error["message"]


def test_each_way_of_asking_gives_what_the_index_gives(client, root):
    index = Index.open(str(root))
    row = index.vector_of(5)
    expected = [hit.number for hit in index.search(row, 6) if hit.number != 5]
    assert [hit["number"] for hit in ask(client, like=5, k=5)] == expected
    by_words = index.search(Model("", "", {}).of_text("a bad cab"), 3)
    assert [(hit["number"], hit["score"]) for hit in ask(client, text=" a bad cab ", k=3)] == [
        (hit.number, pytest.approx(hit.score, abs=1e-4)) for hit in by_words
    ]
    data = encode(noise_image())
    answer = client.post("/api/search", files={"image": data}, data={"k": "2", "where": "shard_row > 4"})
    wanted = index.search(Model("", "", {}).of_image(data), 2, "shard_row > 4")
    assert [hit["number"] for hit in answer.json()["hits"]] == [hit.number for hit in wanted]
    everything = ask(client, k=200)
    assert [hit["number"] for hit in everything] == list(range(N_ROWS))
    assert {hit["score"] for hit in everything} == {None}
    assert [hit["shard_row"] for hit in ask(client, k=3, where="shard = 'a.parquet'")] == [0, 5, 9]


def test_odd_captions_are_told_as_text_and_cut(client):
    told = [hit["columns"]["caption"] for hit in ask(client, k=200)]
    assert told[: len(ODD)] == [text if len(text) <= 2000 else f"{text[:2000]}…" for text in ODD]
    assert ask(client, k=1)[0]["columns"]["n"] == str(2**60)  # JavaScript would round the number
    assert client.get("/api/info").json()["caption"] == "caption"


def test_the_page_is_a_few_files_from_here_that_run_nothing_inline(client):
    page = client.get("/")
    assert page.headers["content-security-policy"].count("unsafe") == 0
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "onclick" not in page.text
    assert " style=" not in page.text
    for name in ("explore.css", "explore.js", "icon.svg"):
        assert name in page.text
        found = client.get(f"/{name}")
        assert found.status_code == 200
        addresses = found.text.replace("http://www.w3.org/2000/svg", "") + page.text
        assert "http:" not in addresses
        assert "https:" not in addresses
    script = client.get("/explore.js").text
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert way not in script


@pytest.mark.parametrize("width", [1, 160, 161, 1280])
def test_a_thumbnail_is_small_and_whole(client, width):
    answer = client.get(f"/api/thumbnail/2?w={width}")
    assert answer.headers["content-type"] == "image/jpeg"
    made = decode(answer.content)
    size = next(size for size in (160, 320, 640, 1280) if size >= width)
    assert made.shape[1] == min(size, 900)
    assert made.shape[0] == pytest.approx(made.shape[1] * 2 / 3, abs=1)


def test_pictures_that_cannot_be_had_say_why_and_no_path(client, root):
    refused(client.get("/api/thumbnail/0"), 404, "not_an_image")
    refused(client.get("/api/thumbnail/1"), 404, "too_many_pixels")
    refused(client.get(f"/api/thumbnail/{N_ROWS - 1}"), 404, "not_found")
    refused(client.get(f"/api/thumbnail/{N_ROWS}"), 404, "not_found")


TRAVERSALS = [
    "..", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/explore.py", "/etc/passwd", "file:///etc/passwd",
    "http://127.0.0.1:1/x", "1/../../x", "1%00", "-1", "1e3", "0x1", "٣", "9" * 5000, "a.parquet%230", "1;x",
]  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSALS)
def test_nothing_but_a_number_leads_to_a_picture(client, path):
    for answer in (
        client.get(f"/api/thumbnail/{path}"),
        client.get(f"/{path}"),
        client.get(f"/explore.css/{path}"),
        client.get("/api/thumbnail/3", params={"w": path}),
        client.post("/api/search", json={"like": path}),
        client.post("/api/search", json={"columns": [path]}),
        client.post("/api/search", json={"where": f"caption = {path}"}),
    ):
        if answer.status_code == 200:  # `..` alone is the page; nothing else is anything
            assert answer.request.url.path == "/"
            continue
        assert answer.status_code in (404, 405, 422), answer.text
        assert set(answer.json()) == {"error"}
        assert "root:" not in answer.text


@pytest.mark.parametrize(
    "values",
    [
        {"k": 0},
        {"k": 10**9},
        {"k": "many"},
        {"like": -1},
        {"like": 2**70},
        {"like": [1]},
        {"text": ""},
        {"text": "x" * 1001},
        {"where": "x" * 2001},
        {"url": "http://127.0.0.1/"},
        {"image": "x"},
        {"text": "a", "like": 1},
        {"columns": ["embedding"]},
        {"where": "nope = 1"},
        {"where": "embedding is null"},
        [],
        "x",
        3,
    ],
)
def test_a_question_that_cannot_be_used_is_refused(client, values):
    refused(client.post("/api/search", json=values), 422, "invalid_parameters")


@pytest.mark.parametrize(
    "where",
    [
        "length(repeat(caption, 1000000000)) > 1",
        "lpad(caption, 1000000000, 'x') = ''",
        "caption || caption = ''",
        "list_sum(range(100000000000)) > 0",
        "sleep_ms(100000)",
        "getenv('HOME') = ''",
        "current_setting('x') = ''",
        "len(read_text('/etc/passwd')) > 0",
        "exists(from 'http://127.0.0.1/x.csv')",
        "true; drop table rows",
        "shard_row in (select 1)",
        "n+" * 900 + "1 > 0",
        "shard_row + " * 150 + "1 > 0 or " * 20 + "x",
        "caption >",
        "error('/secret')",
    ],
)
def test_a_condition_is_one_of_plain_functions(client, where):
    message = refused(client.post("/api/search", json={"where": where}), 422, "invalid_parameters")
    assert "--where" not in message or "nested" in message


def test_a_condition_has_only_so_much_time(root):
    schema = Index.open(str(root)).rows.schema
    Where("length(caption) > 3", schema, functions=PLAIN, limit_s=20)
    with pytest.raises(ConfigError, match="takes too long"):
        Where("length(caption) > 3", schema, functions=PLAIN, limit_s=0)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "evil.example"}, "forbidden_host"),
        ({"host": "localhost.evil.example:8080"}, "forbidden_host"),
        ({"host": "[::1"}, "forbidden_host"),
        ({"host": ""}, "forbidden_host"),
        ({"origin": "http://evil.example"}, "forbidden_origin"),
        ({"origin": "null"}, "forbidden_origin"),
        ({"origin": "http://localhost:9999"}, "forbidden_origin"),
        ({"sec-fetch-site": "cross-site"}, "forbidden_origin"),
    ],
)
def test_other_peoples_pages_cannot_ask(client, headers, code):
    for answer in (
        client.post("/api/search", json={"k": 1}, headers=headers),
        client.get("/api/thumbnail/3", headers=headers),
    ):
        refused(answer, 403, code)


def test_a_link_to_the_page_and_its_own_questions_are_let_in(client, root, monkeypatch):
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200
    own = {"origin": "http://localhost:8080", "sec-fetch-site": "same-origin"}
    assert client.post("/api/search", json={"k": 1}, headers=own).status_code == 200
    for host in ("127.0.0.1:1", "[::1]:8080", "LOCALHOST"):
        assert client.get("/", headers={"host": host}).status_code == 200
    with open_client(root, monkeypatch, is_open=True) as client:
        assert client.get("/", headers={"host": "photos.example"}).status_code == 200


def test_bodies_are_bounded_and_read_as_what_they_are(client, monkeypatch):
    post = client.post
    refused(post("/api/search", content=b"{", headers=JSON), 422, "invalid_json")
    refused(post("/api/search", content=b"x" * 70_000, headers=JSON), 413, "too_many_bytes")
    refused(
        post("/api/search", content=b"{}", headers={"content-type": "text/plain"}), 415, "unsupported_type"
    )
    refused(
        post("/api/search", content=b"x", headers={"content-type": "multipart/form-data"}),
        422,
        "invalid_form",
    )
    refused(post("/api/search", files={"other": b"x"}), 422, "invalid_form")
    refused(post("/api/search", files={"image": b"x"}, data={"path": "/etc"}), 422, "invalid_parameters")
    refused(post("/api/search", files={"image": b""}), 422, "not_an_image")
    refused(post("/api/search", files={"image": png_bomb()}), 422, "too_many_pixels")
    refused(client.get("/api/search"), 405, "method_not_allowed")
    monkeypatch.setattr(door, "_MAX_BODY_BYTES", 1000)
    refused(post("/api/search", files={"image": b"x" * 2000}), 413, "too_many_bytes")
    refused(post("/api/search", content=(b"x" * 600 for _ in range(2)), headers=JSON), 413, "too_many_bytes")


def test_the_page_is_there_before_the_model_and_without_it(root, monkeypatch):
    may_load = threading.Event()

    class Slow(Model):
        takes_text = False

        def __init__(self, *args: object, with_text: bool = False) -> None:
            if with_text:
                raise ModelError("--text_column: it knows no texts")
            may_load.wait(20)

    with open_client(root, monkeypatch, Slow) as client:
        assert client.get("/api/info").json()["model"] == {"state": "loading", "takes_words": False}
        assert len(ask(client, like=1, k=3)) == 3
        may_load.set()
        wait_until(lambda: client.get("/api/info").json()["model"]["state"] == "ready", "the model")
        message = refused(client.post("/api/search", json={"text": "a dog"}), 422, "invalid_parameters")
        assert message == "this data set's model takes no words"

    class Gone(Model):
        def __init__(self, *args: object, **options: object) -> None:
            raise ModelError("/secret/model is gone")

    with open_client(root, monkeypatch, Gone) as client:
        wait_until(lambda: client.get("/api/info").json()["model"]["state"] == "failed", "the model")
        refused(client.post("/api/search", json={"text": "a dog"}), 503, "no_model")
        assert ask(client, like=1)


def test_no_path_is_told_where_a_file_is_gone_and_a_bug_is_no_secret(client, root, monkeypatch, log):
    failures = iter([StorageError("/secret/x: gone"), KeyError("/secret")])

    def fail(*args: object, **options: object) -> None:
        raise next(failures)

    monkeypatch.setattr(Index, "search", fail)
    for code in ("unreadable", "internal_error"):
        refused(client.post("/api/search", json={"like": 1}), 500, code)
    assert log.text.count("/secret") >= 2


def test_more_than_it_can_do_at_once_is_refused(client, monkeypatch):
    monkeypatch.setattr(explorer, "_MAX_WAITING", 0)
    answer = client.post("/api/search", json={})
    refused(answer, 503, "busy")
    assert answer.headers["retry-after"] == "1"


def test_what_it_needs_is_said_in_one_line(root, monkeypatch, capsys, tmp_path):
    assert main(["explore", str(tmp_path)]) == 2
    assert "spark-embed index" in capsys.readouterr().err
    assert main(["explore", str(root), "--port", "99999999"]) == 2
    assert "--port 99999999" in capsys.readouterr().err
    monkeypatch.setattr("spark_embed.cli.explore.find_spec", lambda name: None)
    assert main(["explore", str(root)]) == 2
    assert "pip install 'spark-embed[search,service]'" in capsys.readouterr().err


def test_all_that_it_answers_is_json(client):
    json.loads(client.get("/api/info").text)
    assert client.get("/api/info").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("name", "is_it"),
    [("LOCALHOST", True), ("127.0.0.2", True), ("::1", True), ("0.0.0.0", False), ("a.org", False)],
)
def test_a_loopback_by_any_of_its_names_is_one(name, is_it):
    assert door.is_loopback(name) is is_it


def test_a_page_on_another_loopback_address_answers_to_no_other_name(root, monkeypatch):
    made = []
    monkeypatch.setattr(server, "make_app", lambda shown, **options: made.append(options["is_open"]))
    monkeypatch.setattr(server, "make_config", lambda *_: (_ for _ in ()).throw(InterruptedError))
    for host in ("127.0.0.2", "LOCALHOST"):
        with pytest.raises(InterruptedError):
            server.explore(Index.open(str(root)), {}, host, 0)
    assert made == [False, False]


def test_a_row_without_a_vector_is_not_shown_nor_has_neighbours(tmp_path, monkeypatch):
    publish_vectors(tmp_path, {"a": [*clustered(5), None]})
    build_index(str(tmp_path))
    with open_client(tmp_path, monkeypatch) as client:
        assert [hit["number"] for hit in ask(client, k=9)] == [0, 1, 2, 3, 4]
        told = refused(client.post("/api/search", json={"like": 5}), 422, "invalid_parameters")
    assert "this row has no vector" in told
