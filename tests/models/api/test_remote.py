"""Rows become requests, answers columns: one outcome each, nothing asked twice; a dead provider stops."""

import hashlib
import http.server
import io
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyspark.sql.pandas.types import to_arrow_type

from spark_embed.config import Config
from spark_embed.errors import ImageError, ModelError, StoppedError, StorageError
from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.fetch.references import Reference
from spark_embed.inference.udf import embed_arrays
from spark_embed.models import Recipe, Site, resolved
from spark_embed.models.api import answers as answers_module
from spark_embed.models.api import patience
from spark_embed.models.api import remote as remote_module
from spark_embed.models.api.account import describe_usage, read_kept
from spark_embed.models.api.file import parse_api
from spark_embed.models.api.remote import RemoteModel
from spark_embed.models.api.shrink import shrink
from spark_embed.models.registry import REMOTE
from spark_embed.output.folder import Output
from spark_embed.run.report import _account
from spark_embed.spark.types import IMAGE_TYPE
from spark_embed.storage import delete, list_names, write_json

from support.checkout import REPOSITORY, TESTS
from support.feeds import run_feed
from support.provider_server import CHAT, KEY, make_image
from support.waiting import wait_until


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(patience, "_PAUSE_S", 0.01)


@pytest.fixture
def make_model(provider, tmp_path):
    """Make models that ask the provider, each as in a worker of its own; they end with the test."""
    models = []

    def make(folder=None, max_cost=None, **values):
        api = parse_api({**CHAT, "base_url": provider.base_url, "attempts": 3, **values}, "api.yaml")
        site = Site(str(folder or tmp_path / "answers"), max_cost=max_cost)
        options = (("max_pixels", 100_000), ("api", api.model_dump_json()))
        models.append(RemoteModel(Recipe(kind=REMOTE, options=options, site=site)))
        return models[-1]

    yield make
    for model in models:
        model._client.close()


def predict(model, images, batch_size=4):
    """Return the outcomes of rows, by the marks of their images: values of columns, or codes by result."""
    model.begin()
    references = [Reference(image) for image in images]
    found = []
    for chunk in run_feed(references, model, FeedOptions(batch_size=batch_size)):
        values = {name: iter(column) for name, column in chunk.columns.items()}
        for row in range(chunk.n_rows):
            outcome = {}
            for result in model.gives:
                error = chunk.errors[result.name][row]
                if error is None:
                    outcome |= {field.name: next(values[field.name]) for field in result.fields}
                else:
                    outcome[result.name] = error.code, error.detail
            found.append(outcome)
    assert len(found) == len(images)
    return found


WHAT = {  # what becomes of a row: its code, and how often it is asked about
    "fine": (None, 1),
    "busy": (None, 2),
    "flaky": (None, 2),
    "crowded": ("rate_limited", 3),
    "down": ("unavailable", 3),
    "close": ("unavailable", 3),
    "drip": ("timeout", 3),
    "torn": ("bad_answer", 3),
    "list": ("bad_answer", 3),
    "never": ("refused", 1),
    "moved": ("refused", 1),
}


def test_each_row_has_one_outcome_whatever_the_provider_does(make_model, provider):
    kinds = [*WHAT, "other", *WHAT, "other"]
    images = [make_image(kind, number) for number, kind in enumerate(kinds)]
    images[3:3] = [None, b"no image"]
    found = predict(make_model(timeout_s=0.5), images)
    assert [found.pop(3)["raw"][0] for _ in range(2)] == ["null_bytes", "not_an_image"]
    for number, (kind, outcome) in enumerate(zip(kinds, found, strict=True)):
        mark = f"{kind}-{number}"
        if kind == "other":  # what was paid for is kept, though it is not what was asked for
            assert "a cat, I think" in outcome["raw"]
            assert outcome["parsed"][0] == "bad_answer"
            continue
        code, n_asked = WHAT[kind]
        assert provider.marks[mark] == n_asked
        if code is None:
            assert (outcome["label"], outcome["certainty"]) == (mark, 0.5)
            assert outcome["raw"] == provider.texts[mark]
            assert json.loads(outcome["raw"])["prompt"] == "what is it?"
        else:
            if code == "bad_answer":  # paid for, too
                assert (outcome["raw"], outcome["parsed"][0]) == (provider.texts[mark], code)
                continue
            assert outcome["raw"][0] == outcome["parsed"][0] == code
            assert provider.base_url in outcome["raw"][1]
            assert KEY not in outcome["raw"][1]
    assert provider.keys == {f"Bearer {KEY}"}


def test_answers_are_kept_as_they_come_and_counted(make_model, provider, tmp_path):
    images = [make_image("fine", number) for number in range(20)]
    images += [make_image("torn", 20), make_image("flaky", 21)]
    model = make_model(prices={"request": 0.01, "million_input_tokens": 1000}, concurrency=1)
    first = predict(model, images)
    assert predict(make_model(columns={"text": "prompt"}), images[:20])[7]["text"] == "what is it?"
    assert provider.n_again() == 0
    assert provider.marks.total() == 25
    predict(make_model(), images[20:])
    assert provider.marks.total() == 25
    assert predict(make_model(prompt="and now?"), images[:1])[0]["label"] == first[0]["label"]
    assert provider.marks["fine-0"] == 2  # another question
    recipe = replace(model.recipe, site=Site(str(tmp_path / "answers")))
    assert describe_usage(recipe) == {
        "requests": 26,
        "requests_maybe_paid_twice": 2,  # torn answers may have been charged for, a 500 is not
        "answers": 23,
        "input_tokens": 2200,
        "output_tokens": 220,
        "cost_usd": 2.45,
        "answered_by": {"tiny-2026-01-01": 22, "unknown": 1},
    }
    assert KEY not in "".join(path.read_text() for path in (tmp_path / "answers").iterdir())


FEED = """
import sys
from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.fetch.references import Reference
from spark_embed.models import Recipe, Site
from spark_embed.models.api.remote import RemoteModel
from support.feeds import run_feed
from support.provider_server import make_image

model = RemoteModel(Recipe(options=(("api", sys.argv[1]), ("max_pixels", 1000)), site=Site(sys.argv[2])))
model.begin()
images = [Reference(make_image("fine", number)) for number in range(120)]
list(run_feed(images, model, FeedOptions(batch_size=4)))
"""


def _kill_and_ask_again(make_model, provider, folder, n_sent):
    """Kill a process that asks, and go on here; returns how many requests were sent again, and usage."""
    provider.latency_s = 0.02
    model = make_model(folder, concurrency=4)
    words = [sys.executable, "-c", FEED, model.recipe.option("api"), folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, TESTS)))}
    process = subprocess.Popen(words, env=environment)
    wait_until(lambda: provider.marks.total() >= n_sent, f"{n_sent} requests")
    process.kill()
    process.wait()
    images = [make_image("fine", number) for number in range(120)]
    assert [one["label"] for one in predict(model, images)] == [f"fine-{number}" for number in range(120)]
    model._client._answers.flush()
    return provider.marks.total() - 120, describe_usage(model.recipe)


@pytest.mark.slow
def test_after_a_kill_only_what_was_in_flight_is_asked_again(make_model, provider, tmp_path):
    n_again, usage = _kill_and_ask_again(make_model, provider, str(tmp_path / "answers"), n_sent=50)
    assert n_again <= 4
    assert n_again <= usage["requests"] - 120 <= 4  # noted, and killed before it went
    assert usage["requests_maybe_paid_twice"] == usage["requests"] - 120


@pytest.mark.crash
def test_after_a_kill_in_s3_one_object_more_is_asked_again(make_model, provider, s3_root):
    n_again, usage = _kill_and_ask_again(make_model, provider, f"{s3_root}/answers", n_sent=90)
    assert n_again <= 50 + 4
    assert usage["answers"] == 120


def test_a_line_that_was_cut_off_is_no_answer(make_model, provider, tmp_path):
    images = [make_image("fine", number) for number in range(3)]
    predict(make_model(concurrency=1), images)
    (path,) = (tmp_path / "answers").iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    predict(make_model(), images)
    assert [provider.marks[f"fine-{number}"] for number in range(3)] == [1, 1, 2]


def test_in_s3_answers_are_kept_in_few_objects(make_model, provider, s3_root):
    images = [make_image("fine", number) for number in range(120)]
    folder = f"{s3_root}/answers"
    model = make_model(folder)
    predict(model, images)
    assert 2 <= len(list_names(folder)) <= 3  # the last are in memory
    assert predict(model, images[-1:])[0]["label"] == "fine-119"
    model.end()
    assert len(list_names(folder)) == 3
    found = predict(make_model(folder), images)
    assert [one["label"] for one in found] == [f"fine-{number}" for number in range(120)]
    assert provider.marks.total() == 120
    assert read_kept(folder).n_answers == read_kept(folder).n_sent == 120


def test_what_cannot_be_stored_in_s3_is_stored_later(make_model, provider, s3_root, monkeypatch):
    model = make_model(f"{s3_root}/answers")
    predict(model, [make_image("fine", number) for number in range(20)])

    def fail(path, text):
        raise StorageError(f"{path}: no")

    with monkeypatch.context() as patch:
        patch.setattr(answers_module, "write_text", fail)
        with pytest.raises(StorageError, match="no"):
            model.end()
    model.end()
    assert read_kept(f"{s3_root}/answers").n_answers == 20


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_a_folder_that_was_deleted_is_forgotten(make_model, provider, s3_root, tmp_path, where):
    """As between two runs of a session, whose workers keep their models."""
    folder = f"{s3_root}/answers" if where == "s3" else str(tmp_path / "answers")
    images = [make_image("fine", number) for number in range(4)]
    other, model = make_model(folder), make_model(folder)
    predict(other, images[:2])
    other.end()
    for n_runs in (1, 2):
        assert [one["label"] for one in predict(model, images)] == [f"fine-{n}" for n in range(4)]
        model.end()
        assert provider.marks.total() == 4 * n_runs
        assert model._client._answers.usage == (4, {"input_tokens": 400, "output_tokens": 40})
        assert read_kept(folder).n_answers == 4
        delete(folder)


def test_identical_images_are_asked_about_once(make_model, provider):
    provider.latency_s = 0.1
    found = predict(make_model(), [make_image("fine")] * 12)
    assert [one["label"] for one in found] == ["fine-0"] * 12
    assert provider.marks.total() == 1


def test_an_answer_that_says_nothing_of_what_a_limit_goes_by_stops_the_run(make_model, provider):
    images = [make_image("other")]  # whose usage has only pages
    assert "raw" in predict(make_model(prices={"request": 1}, max_cost=5), images)[0]
    said = r"completions: an answer does not say how many input tokens it took \(usage\), and {} goes by that"
    for values, name in (
        ({"tokens_per_minute": 1e6}, "tokens_per_minute"),
        ({"prices": {"million_input_tokens": 1}}, "prices.million_input_tokens"),
    ):
        with pytest.raises(ModelError, match=said.format(name)):
            predict(make_model(prompt=name, **values), images)


def test_others_are_asked_about_while_the_slowest_is_waited_for(make_model, provider):
    provider.latency_s = 0.01
    images = [make_image("patient", 25), *(make_image("fine", number) for number in range(40))]
    assert (
        predict(make_model(concurrency=8, timeout_s=5, attempts=1), images, batch_size=2)[0]["label"]
        == "patient-25"
    )
    assert provider.most_at_once == 8


STOPS = {
    401: r"HTTP 401: no: \{'Bearer \*\*\*'\}: 3 requests in a row",
    402: "HTTP 402: .*: 3 requests in a row",
    404: "HTTP 404: .*: 3 requests in a row",
    503: "HTTP 503: .*: 10 rows in a row, 3 attempts each",
}


@pytest.mark.parametrize(("status", "said"), STOPS.items())
def test_a_dead_or_unpaid_provider_stops_the_run(make_model, provider, status, said):
    provider.status = status
    with pytest.raises(ModelError, match=f"^{provider.base_url}/chat/completions: {said}") as caught:
        predict(make_model(concurrency=2), [make_image("fine", number) for number in range(40)])
    assert KEY[:3] not in str(caught.value)  # nor a part of it, where what the provider says is cut
    assert provider.marks.total() <= (5 if status < 500 else 40)


def test_a_provider_that_is_not_there_stops_the_run(make_model):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = make_model(base_url=f"http://127.0.0.1:{port}/v1")
    with pytest.raises(ModelError, match=r"no connection: .*refused: 16 rows in a row, 3 attempts each"):
        predict(model, [make_image("fine", number) for number in range(40)])


def test_the_run_stops_at_what_it_may_cost_and_goes_on_with_more(make_model, provider):
    images = [make_image("fine", number) for number in range(40)]
    provider.latency_s = 0.05
    costs = {"prices": {"request": 0.5}, "concurrency": 4}
    said = r"^stopped at --max_cost 5 \(answers for [56]\.\d0 USD, which are kept\)$"
    with pytest.raises(StoppedError, match=said):
        predict(make_model(max_cost=5, **costs), images)
    assert provider.n_at_once == 0  # what was on its way has come, and is kept
    n_paid = provider.marks.total()
    assert n_paid <= 14
    with pytest.raises(StoppedError, match=said):
        predict(make_model(max_cost=5, **costs), images)
    assert provider.marks.total() == n_paid
    assert len(predict(make_model(max_cost=50, **costs), images)) == 40
    assert provider.n_again() == 0


def test_a_key_that_is_not_set_is_told(make_model, monkeypatch):
    monkeypatch.delenv(CHAT["key"])
    with pytest.raises(ModelError, match=f"{CHAT['key']}: the environment variable with the key for http"):
        make_model()


def test_vectors_and_documents(make_model, provider):
    images = [make_image("fine", number) for number in range(3)]
    columns = {"embedding": "data[0].embedding as vector"}
    model = make_model(provider="openai_embeddings", columns=columns)
    found = predict(model, images)
    assert model.describe()["dims"] == {"embedding": 3}
    assert model.recipe.option("dims") == (("embedding", 3),)
    options = (*model._bound.options, ("dims", (("embedding", 4),)))  # as preflight found it
    other = RemoteModel(replace(model._bound, options=options))
    said = "embedding: a vector of 3 values, others have 4"
    assert [one["parsed"] for one in predict(other, images)] == [("bad_answer", said)] * 3
    other._client.close()
    wanted = np.array([[3, 4 + number, 0] for number in range(3)], dtype=np.float32)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose([one["embedding"] for one in found], wanted, rtol=1e-6)

    columns = {
        "html": "content.html",
        "kinds": "elements[*].category as array<string>",
        "n": "usage.pages as int",
    }
    columns["formats"] = "content.markdown"
    fields = {"ocr": "force", "output_formats": ["html", "text"]}
    found = predict(make_model(provider="document_parse", columns=columns, fields=fields, prompt=""), images)
    assert found[1]["html"] == "<p>fine-1</p>"
    assert (found[1]["kinds"], found[1]["n"]) == (["paragraph", "table"], 2)
    assert json.loads(found[1]["formats"]) == ["html", "text"]


def test_a_large_image_is_sent_smaller_and_a_small_one_as_it_is(make_model, monkeypatch):
    sent = []
    model = make_model(max_edge=64)
    monkeypatch.setattr(model._client, "ask", lambda data, make: sent.append(make(data)))
    large = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (400, 200), "red").save(large, "JPEG", exif=exif)
    small = make_image("fine")
    for data in (large.getvalue(), small):
        model.prepare(type("Inputs", (), {"image": data}))
    with Image.open(io.BytesIO(sent[0][1])) as image:
        assert image.size == (32, 64)
    assert sent[1] == ("image/png", small)
    assert model.describe()["max_edge"] == 64
    key = model._asking.key(small)
    assert key != make_model(max_edge=32)._asking.key(small)
    assert len(key) == len(hashlib.sha256().hexdigest())


def test_an_answer_is_found_without_decoding_and_a_hostile_image_is_refused(
    make_model, provider, monkeypatch
):
    image = make_image("fine")
    predict(make_model(max_edge=16), [image])
    with monkeypatch.context() as patch:
        patch.setattr(remote_module, "shrink", None)
        assert predict(make_model(max_edge=16), [image])[0]["label"] == "fine-0"
    large = io.BytesIO()
    Image.new("1", (500, 300)).save(large, "PNG")
    found = predict(make_model(max_edge=16), [large.getvalue()])
    assert found[0]["raw"] == ("too_many_pixels", "500 x 300 are more than 100000 pixels")
    with pytest.raises(ImageError, match="too_many_pixels"):  # by Pillow's own guard, before there is a size
        shrink(large.getvalue(), 16, 10_000)


def test_the_end_of_a_task_stores_what_was_answered(make_model, provider, s3_root):
    folder = f"{s3_root}/answers"
    recipe = resolved(make_model(folder))
    images = [make_image("fine", number) for number in range(3)]
    rows = pa.array([{"bytes": image} for image in images], to_arrow_type(IMAGE_TYPE))
    list(embed_arrays(iter([rows]), recipe, FeedOptions(batch_size=2)))
    assert read_kept(folder).n_answers == 3


def test_a_run_with_nothing_to_do_tells_what_the_one_before_used(make_model, provider, tmp_path):
    model = make_model(tmp_path / "out/_spark_embed/answers")
    predict(model, [make_image("fine"), make_image("lone")])
    path = tmp_path / "api.yaml"
    path.write_text(model.recipe.option("api"))  # JSON is YAML
    config = Config(input_dir="in", output_dir=str(tmp_path / "out"), model_directory=str(path))
    context = SimpleNamespace(config=config, output=Output(config.output_dir))
    usage = _account(context, None)
    assert usage["answered_by"] == {"tiny-2026-01-01": 1, "unknown": 1}
    write_json(str(tmp_path / "metadata.json"), usage)  # no half of a surrogate pair


def test_a_certificate_that_is_not_trusted_is_told(make_model, tmp_path):
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    subject = ["-subj", "/CN=localhost", "-days", "1"]
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    subprocess.run([*words, *subject], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model = make_model(base_url=f"https://127.0.0.1:{server.server_port}/v1")
    with pytest.raises(ModelError, match=r"its certificate is not trusted where the tasks run: self.signed"):
        predict(model, [make_image("fine", number) for number in range(5)])
    server.shutdown()
    server.server_close()
