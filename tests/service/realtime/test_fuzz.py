"""Whatever is sent, the answer is a refusal in the one shape, or the model's: never a 500, or a traceback."""

import asyncio
import base64
import json
import logging

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spark_embed.service.realtime import requests
from spark_embed.service.realtime.app import make_app
from spark_embed.service.realtime.engine import Engine
from spark_embed.service.realtime.load_settings import load_settings

from support.image_files import encode, noise_image

IMAGE = encode(noise_image())
MAX_BODY = 200_000
ANY_BYTES = "application/octet-stream"

texts = st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
images = st.one_of(
    st.just(base64.b64encode(IMAGE).decode()),
    st.just("data:image/png;base64," + base64.b64encode(IMAGE).decode()),
    st.binary(max_size=50).map(lambda data: base64.b64encode(data).decode()),
    st.text(max_size=5).map("data:image/".__add__),
    values,
)
rows = (
    st.fixed_dictionaries({}, optional={"image": images, "url": values, "text": values, "x": values}) | values
)
infer_bodies = st.one_of(rows, st.fixed_dictionaries({"inputs": st.lists(rows, max_size=4) | values}), values)
openai_bodies = st.fixed_dictionaries(
    {"input": images | st.lists(images, max_size=3), "model": st.just("clip") | texts},
    optional={"encoding_format": values | st.just("base64"), "dimensions": values, "user": values},
)
json_bytes = st.one_of(
    infer_bodies.map(lambda value: json.dumps(value).encode()),
    openai_bodies.map(lambda value: json.dumps(value).encode()),
    st.integers(1, 6000).map(lambda depth: b"[" * depth),
    st.binary(max_size=50),
)

names = st.sampled_from([b"image", b"text", b"image ", b"\xff", b""]) | st.binary(max_size=5)
part_heads = st.lists(
    st.one_of(
        names.map(lambda name: b'content-disposition: form-data; name="%b"' % name),
        names.map(lambda name: b'content-disposition: form-data; name="%b"; filename="f"' % name),
        st.just(b'content-disposition: form-data; name="text"'),
        st.just(b'content-disposition: form-data; name="image"; filename="f"'),
        st.binary(max_size=20),
    ),
    max_size=3,
)
parts = st.tuples(part_heads, st.just(IMAGE) | st.binary(max_size=20) | texts.map(str.encode)).map(
    lambda part: b"--b\r\n" + b"".join(line + b"\r\n" for line in part[0]) + b"\r\n" + part[1] + b"\r\n"
)
forms = st.tuples(st.lists(parts, max_size=4), st.sampled_from([b"--b--\r\n", b"--b--", b"--b", b""])).map(
    lambda form: b"".join(form[0]) + form[1]
)
any_text = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=90)
charsets = st.sampled_from(["utf-8", "utf-7", "utf-16", "unicode_escape", "idna", "punycode", "rot13", "x"])
boundaries = st.sampled_from(["", "; boundary=", ' ;boundary="b"', f"; boundary={'b' * 99}"])
form_types = st.one_of(
    st.just("multipart/form-data; boundary=b"),
    charsets.map("multipart/form-data; boundary=b; charset=".__add__),
    boundaries.map("Multipart/Form-Data".__add__),
    any_text.map("multipart/form-data; boundary=".__add__),
)


@st.composite
def torn(draw, bodies):
    """Bodies, some with a piece cut out or put in."""
    body = draw(bodies)
    if draw(st.booleans()):
        return body
    at, to = sorted(draw(st.tuples(st.integers(0, len(body)), st.integers(0, len(body)))))
    return body[:at] + draw(st.binary(max_size=5)) + body[to:]


headers = st.fixed_dictionaries(
    {},
    optional={
        "accept": st.just(ANY_BYTES) | any_text,
        "x-request-id": any_text,
        "traceparent": any_text,
        "authorization": any_text,
        "content-encoding": st.just("gzip") | any_text,
        "content-length": st.sampled_from(["0", "5", "-1", "+3", "9" * 19, "²", "1e3"]) | any_text,
    },
)
any_type = st.one_of(
    st.sampled_from(["application/json", "image/jpeg", "image/", ANY_BYTES, ""]),
    any_text,
)


@pytest.fixture(scope="module")
def ask(material):
    """Send a body to a service in this process; returns the answer, checked."""
    model = ["--model_directory", str(material / "clip-tiny"), "--text_column", "text"]
    loop = asyncio.new_event_loop()
    engine = Engine(load_settings([*model, "--max_body_bytes", str(MAX_BODY)], {}))
    app = make_app(engine, None, lambda exc: None)

    async def start():
        running = asyncio.create_task(engine.run())
        while engine.why_not_ready:
            assert not running.done(), running.exception()
            await asyncio.sleep(0.01)
        return running

    async def send(path, body, headers):
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            request = client.build_request("POST", path, content=body)
            request.headers = httpx.Headers([*raw, (b"host", b"here")])
            return await client.send(request)

    def ask(path, body, headers) -> int:
        answer = loop.run_until_complete(send(path, body, headers))
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            error = answer.json()["error"]
            assert error.keys() == {"code", "message", "request_id"}
            assert all(isinstance(value, str) and value for value in error.values())
            assert error["request_id"] == answer.headers["x-request-id"]
        elif answer.headers["content-type"] == "application/json":
            assert answer.json()
        return answer.status_code

    running = loop.run_until_complete(start())
    yield ask
    running.cancel()
    loop.run_until_complete(asyncio.wait({running}))
    loop.close()


@pytest.fixture(autouse=True)
def no_errors(caplog):
    with caplog.at_level(logging.WARNING):
        yield
    assert not caplog.records


quick = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(torn(json_bytes), st.sampled_from(["/infer", "/v1/embeddings"]))
def test_any_json(ask, body, path):
    ask(path, body, {"content-type": "application/json"})


@quick
@given(torn(forms), form_types)
def test_any_form(ask, body, content_type):
    ask("/infer", body, {"content-type": content_type})


@quick
@given(any_type, headers, st.just(IMAGE) | st.binary(max_size=50))
def test_any_headers(ask, content_type, headers, body):
    ask("/infer", body, {"content-type": content_type, **headers})


FORM = b'--b\r\ncontent-disposition: form-data; name="text"\r\n\r\n%b\r\n--b--\r\n'


@pytest.mark.parametrize(
    ("charset", "text", "status"),
    [
        ("utf-8", "é".encode(), 200),
        ("UTF-8", b"a", 200),
        ("utf-8", b"\xe9", 422),
        ("latin-1", b"\xe9", 422),
        ("unicode_escape", rb"\ud800", 422),  # half a character: no tokenizer takes it, nor the batch with it
    ],
)
def test_a_text_of_a_form_is_utf8(ask, charset, text, status):
    content_type = f"multipart/form-data; boundary=b; charset={charset}"
    assert ask("/infer", FORM % text, {"content-type": content_type}) == status


JSON_TYPE = {"content-type": "application/json"}
LONG = "a" * 65_537


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/infer", json.dumps({"text": LONG}).encode(), JSON_TYPE),
        ("/infer", FORM % LONG.encode(), {"content-type": "multipart/form-data; boundary=b"}),
        ("/v1/embeddings", json.dumps({"model": "clip-tiny", "input": LONG}).encode(), JSON_TYPE),
    ],
)
def test_a_text_that_would_hold_its_batch_up_is_refused(ask, path, body, headers):
    assert ask(path, body, headers) == 422
    assert ask(path, body.replace(LONG.encode(), LONG[1:].encode()), headers) == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/infer", b"[%b]" % (b"[]," * 1000)),
        ("/infer", b'{"inputs": [%b 1]}' % (b'{"text":"a"},' * 1000)),
        ("/v1/embeddings", b'{"model": "m", "input": [%b "a"]}' % (b'"a",' * 1000)),
    ],
)
def test_json_that_takes_long_to_read_is_not_read(ask, monkeypatch, path, body):
    monkeypatch.setattr(requests, "_MAX_JSON_VALUES", 900)
    monkeypatch.setattr("orjson.loads", None)
    assert ask(path, body, JSON_TYPE) == 422
