"""What is asked and what is answered, by a real service: shapes, codes, headers, metrics, log."""

import base64
import json
import re

import httpx
import numpy as np
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from spark_embed.inference.decode import decode
from spark_embed.models import Inputs
from spark_embed.models.vision.image_embedder import ImageEmbedder

from support.checkout import REPOSITORY
from support.image_files import encode, png_bomb
from support.live_service import live_service
from support.small_models import recipe
from support.waiting import wait_until

KEY = "a-key-of-its-own"
MAX_BODY = 200_000
FILE = {"image": b"x"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module")
def service(tiny_clip, tmp_path_factory):
    config = tmp_path_factory.mktemp("config") / "service.yaml"
    config.write_text(
        f"server: {{max_body_bytes: {MAX_BODY}, max_images: 8, cors_origins: 'https://a.b',"
        " rate_limit: 200/minute;100000/day}\n"
        f"model: {{model_directory: {tiny_clip}, batch_size: 4}}\n"
    )
    with live_service("--config", config, environ={"INFERENCE_API_KEY": KEY}) as service:
        yield service
        assert KEY not in str(service.log)
        assert not [line for line in service.log if line.get("level") == "ERROR"], service.log


@pytest.fixture(scope="module")
def client(service):
    with service.client(authorization=f"Bearer {KEY}") as client:
        yield client


@pytest.fixture(scope="module")
def images(photos) -> list[bytes]:
    return [encode(photo.resize((320, 240)), quality=80) for photo in photos[:3]]


@pytest.fixture(scope="module")
def expected(images, tiny_clip):
    model = ImageEmbedder(recipe(tiny_clip))
    return [model.predict([model.prepare(Inputs(decode(data)))]).columns["embedding"][0] for data in images]


def jpeg(client, data, **headers) -> httpx.Response:
    return client.post("/infer", content=data, headers={"content-type": "image/jpeg", **headers})


def error_of(response, status) -> tuple[str, str]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"code", "message", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    return error["code"], error["message"]


def close_to(vectors, expected):
    assert np.asarray(vectors).shape == (len(expected), 24)
    assert np.abs(np.asarray(vectors) - np.asarray(expected)).max() <= 1e-5


def test_an_image_in_every_form_gives_the_same_vector(client, images, expected):
    answer = jpeg(client, images[0])
    assert answer.status_code == 200
    body = answer.json()
    assert body.keys() == {"output", "request_id", "processing_time_ms", "batch_size", "total_time_ms"}
    assert (body["batch_size"], body["request_id"]) == (1, answer.headers["x-request-id"])
    assert 0 < body["processing_time_ms"] < body["total_time_ms"]
    close_to(body["output"], expected[:1])
    text = base64.b64encode(images[0]).decode()
    for sent in (
        {"files": {"image": images[0]}},
        {"json": {"image": text}},
        {"json": {"inputs": [{"image": f"data:image/jpeg;base64,{text}"}]}},
        {"content": images[0], "headers": {"content-type": "application/octet-stream"}},
    ):
        close_to(client.post("/infer", **sent).json()["output"], expected[:1])


def test_several_images_are_a_row_each_and_a_bad_one_fails_alone(client, images, expected):
    files = [("image", data) for data in (images[0], b"no image", images[1], images[2][:99])]
    answer = client.post("/infer", files=files)
    assert answer.status_code == 200
    first, bad, second, cut = answer.json()["output"]
    close_to([first, second], expected[:2])
    assert bad["error"]["code"] == "not_an_image"
    assert cut["error"]["code"] == "corrupt"


def test_float32_is_the_vectors_as_they_are(client, images, expected):
    accept = {"accept": "application/octet-stream"}
    answer = client.post("/infer", files=[("image", data) for data in images], headers=accept)
    assert answer.headers["content-type"] == "application/octet-stream"
    close_to(np.frombuffer(answer.content, "<f4").reshape(-1, 24), expected)
    broken = client.post("/infer", files=[("image", images[0]), ("image", b"")], headers=accept)
    assert error_of(broken, 422) == ("not_an_image", "row 1: 0 bytes")


def post_json(client, text) -> httpx.Response:
    return client.post("/infer", content=text, headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    ("ask", "status", "code"),
    [
        (lambda client: jpeg(client, b"GIF89a"), 422, "not_an_image"),
        (lambda client: jpeg(client, png_bomb()), 422, "too_many_pixels"),
        (lambda client: client.post("/infer"), 415, "unsupported_type"),
        (lambda client: client.post("/infer", data={"image": "x"}), 415, "unsupported_type"),
        (lambda client: client.post("/infer", files={"picture": b"x"}), 422, "invalid_form"),
        (lambda client: client.post("/infer", files=[("image", b"x")] * 9), 422, "invalid_form"),
        (
            lambda client: client.post("/infer", files={"image": b"x"}, data={"text": "x"}),
            422,
            "unexpected_text",
        ),
        (lambda client: post_json(client, '{"inputs": [' + "{}," * 3 + "{}]}"), 422, "invalid_parameters"),
        (lambda client: post_json(client, "{"), 422, "invalid_json"),
        (lambda client: post_json(client, "[]"), 422, "invalid_parameters"),
        (lambda client: post_json(client, '{"image": "%%"}'), 422, "invalid_base64"),
        (lambda client: post_json(client, '{"url": "http://x/y"}'), 422, "url_not_allowed"),
        (lambda client: post_json(client, '{"text": "a dog"}'), 422, "unexpected_text"),
        (lambda client: client.get("/infer"), 405, "method_not_allowed"),
        (lambda client: client.get("/elsewhere"), 404, "not_found"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_code(client, ask, status, code):
    assert error_of(ask(client), status)[0] == code


def pieces():
    for _ in range(MAX_BODY // 1000 + 2):
        yield bytes(1000)


@pytest.mark.parametrize("content", [bytes(MAX_BODY + 1), pieces], ids=["announced", "in pieces"])
def test_a_body_that_is_too_large_is_refused(client, content):
    sent = content if isinstance(content, bytes) else content()
    assert error_of(jpeg(client, sent), 413)[0] == "too_many_bytes"


def test_a_key_is_asked_for_but_not_of_probes(service, images):
    with service.client() as client:
        assert error_of(jpeg(client, images[0]), 401)[0] == "unauthorized"
        assert jpeg(client, images[0]).headers["www-authenticate"] == "Bearer"
        assert error_of(client.get("/info", headers={"authorization": "Bearer wrong"}), 401)
        assert client.get("/info", headers={"x-api-key": KEY}).status_code == 200
        for path in ("/health", "/ready", "/metrics"):
            assert client.get(path).status_code == 200


def test_a_client_that_asks_too_often_is_told_when_to_come_again(service):
    with service.client("127.0.0.7", authorization=f"Bearer {KEY}") as client:
        answers = [client.post("/infer") for _ in range(201)]
    assert {answer.status_code for answer in answers[:200]} == {415}
    assert error_of(answers[200], 429)[0] == "rate_limited"
    assert 1 <= int(answers[200].headers["retry-after"]) <= 60


def test_an_openai_client_works_unchanged(service, client, images, expected, tiny_clip):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0) as theirs:
        (model,) = {one.id for one in theirs.models.list()} - {str(tiny_clip)}
        urls = [f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" for data in images]
        for given in ({}, {"encoding_format": "float"}):  # theirs asks for base64 by itself
            answer = theirs.embeddings.create(input=urls, model=model, **given)
            close_to([one.embedding for one in answer.data], expected)
        with pytest.raises(openai.NotFoundError, match="not served here"):
            theirs.embeddings.create(input=urls, model="text-embedding-3-small")
        with pytest.raises(openai.UnprocessableEntityError, match="takes no text"):
            theirs.embeddings.create(input="a dog", model=model)
        with pytest.raises(openai.UnprocessableEntityError, match="input 1: "):
            theirs.embeddings.create(input=[urls[0], "data:image/png;base64,AAAA"], model=model)
        with pytest.raises(openai.UnprocessableEntityError, match="dimensions"):
            theirs.embeddings.create(input=urls, model=model, dimensions=12)


def test_the_client_of_the_docs_works_as_it_stands(service, images, expected, tmp_path):
    (code,) = re.findall(
        r"^```python\n(.*?)^```$", (REPOSITORY / "docs/service.md").read_text(), re.DOTALL | re.MULTILINE
    )
    client: dict = {"__name__": "client"}
    exec(code, client)
    (tmp_path / "photo.jpg").write_bytes(images[0])
    close_to([client["vector_of"](tmp_path / "photo.jpg", service.url, KEY)], expected[:1])
    with pytest.raises(RuntimeError, match="401 unauthorized: send the service's key"):
        client["vector_of"](tmp_path / "photo.jpg", service.url)


def test_the_dashboard_asks_for_metrics_that_there_are(client):
    jpeg(client, b"broken")
    dashboard = json.loads((REPOSITORY / "deploy/service/dashboard.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"inference_\w+", target["expr"])
    }
    assert asked
    assert asked <= {key[0] for key in metrics_of(client)}


def test_info_says_which_model_it_is(client, tiny_clip):
    about = client.get("/info").json()
    assert (about["dim"], about["dtype"], about["device"]) == (24, "float32", "cpu")
    assert re.fullmatch("[0-9a-f]{64}", about["weights_sha256"])
    assert about["model"]["source"] == str(tiny_clip)
    assert (about["batch_size"], about["limits"]["max_body_bytes"], about["takes"]) == (
        4,
        MAX_BODY,
        ["image"],
    )
    assert "/infer" in client.get("/openapi.json").json()["paths"]
    assert client.get("/docs").status_code == 200


def metrics_of(client) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, *(value for name, value in sample.labels.items() if name != "model")): sample.value
        for family in families
        for sample in family.samples
    }


def test_metrics_count_what_happened(client, images):
    before = metrics_of(client)
    jpeg(client, images[0])
    client.post("/infer", files=[("image", images[1]), ("image", b"broken")])
    jpeg(client, b"broken")
    after = metrics_of(client)

    def grown(*key):
        return after[key] - before.get(key, 0)

    assert grown("inference_requests_total", "200") == 2
    assert grown("inference_requests_total", "422") == 1
    assert grown("inference_errors_total", "not_an_image") == 2
    assert grown("inference_request_duration_seconds_count") == 3
    assert grown("inference_batch_size_sum") == grown("inference_batch_wait_seconds_count") == 2
    assert after[("inference_queue_depth",)] == 0
    assert after[("inference_model_load_seconds",)] > 0
    assert after[("inference_model_warmup_seconds",)] > 0
    assert {key[0] for key in after} == {
        *("inference_requests_total", "inference_errors_total", "inference_queue_rejections_total"),
        *(f"inference_request_duration_seconds_{part}" for part in ("bucket", "count", "sum")),
        *(
            f"inference_batch_{what}_{part}"
            for what in ("size", "wait_seconds")
            for part in ("bucket", "count", "sum")
        ),
        *("inference_queue_depth", "inference_model_load_seconds", "inference_model_warmup_seconds"),
    }


def test_the_log_has_a_line_for_each_request_with_its_ids(service, client, images):
    trace = f"00-{TRACE}-00f067aa0ba902b7-01"
    answer = jpeg(client, images[0], **{"x-request-id": "mine-1", "traceparent": trace})
    assert answer.headers["x-request-id"] == "mine-1"
    lines = []
    wait_until(
        lambda: lines.extend(line for line in service.log if line.get("request_id") == "mine-1") or lines,
        "the line",
    )
    (line,) = lines
    assert {"timestamp", "level", "logger", "message", "queue_depth"} < line.keys()
    assert line["trace_id"] == TRACE
    assert 0 < line["timings"]["predict_s"] < line["timings"]["total_s"]
    forged = jpeg(client, images[0], **{"x-request-id": 'a"b', "traceparent": "00-0-0-0"})
    assert re.fullmatch("[0-9a-f]{32}", forged.headers["x-request-id"])


def test_pages_of_other_origins_may_not_ask(client):
    asked = {"access-control-request-method": "POST"}
    allowed = client.options("/infer", headers={"origin": "https://a.b", **asked})
    assert allowed.headers["access-control-allow-origin"] == "https://a.b"
    other = client.options("/infer", headers={"origin": "https://c.d", **asked})
    assert "access-control-allow-origin" not in other.headers
