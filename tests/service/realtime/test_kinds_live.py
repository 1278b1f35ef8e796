"""Other models than image embedders, and images behind urls: the application in this process."""

import asyncio
import base64
import threading

import httpx
import numpy as np
import pytest

from spark_embed.live.model import LiveModel
from spark_embed.service.realtime import urls
from spark_embed.service.realtime.app import make_app
from spark_embed.service.realtime.engine import Engine
from spark_embed.service.realtime.load_settings import load_settings

from support.bad_server import BadServer, image_bytes
from support.image_files import encode


def asked(ask, *argv, **environ):
    """Run an application with a warm model, and what is asked of it."""

    async def main():
        engine = Engine(load_settings(list(map(str, argv)), environ))
        app = make_app(engine, None, lambda exc: None)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            assert (await client.get("/health")).status_code == 200
            before = await client.post("/infer")
            assert (before.status_code, before.json()["error"]["code"]) == (503, "not_ready")
            while engine.why_not_ready:
                await asyncio.sleep(0.01)
            return await ask(client)

    return asyncio.run(main())


def test_a_batch_that_fails_is_told_and_the_model_is_tried_before_the_next(tiny_clip, photo, monkeypatch):
    """A whole batch fails only by what no folder with code can do: a fake stands at the model's seam."""
    failures = []

    def failing(self, items):
        if failures:
            raise failures.pop()
        return predict(self, items)

    def tried(self, *n_images):
        if n_images == (1,):
            assert hold.wait(60)
        return try_grey(self, *n_images)

    predict, try_grey, hold = LiveModel.predict, LiveModel.try_grey, threading.Event()
    monkeypatch.setattr(LiveModel, "predict", failing)
    monkeypatch.setattr(LiveModel, "try_grey", tried)

    async def ask(client):
        failures.append(RuntimeError("CUDA error: an illegal memory access"))
        failed = await client.post("/infer", **form(photo))
        meanwhile = [await client.get("/ready"), await client.post("/infer", **form(photo))]
        hold.set()
        while (await client.get("/ready")).status_code != 200:
            await asyncio.sleep(0.01)
        return failed, meanwhile, await client.post("/infer", **form(photo))

    failed, meanwhile, after = asked(ask, "--model_directory", tiny_clip)
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "model_error")
    assert {(one.status_code, one.json()["error"]["code"]) for one in meanwhile} == {(503, "not_ready")}
    assert "CUDA error" in meanwhile[0].json()["error"]["message"]
    assert after.status_code == 200


def form(*images, text=()):
    return {"files": [("image", data) for data in images], "data": {"text": list(text)} if text else None}


@pytest.fixture(scope="module")
def photo(photos):
    return encode(photos[0].resize((200, 200)))


def test_a_clip_with_its_words_gives_vectors_of_both(material, photo):
    texts = ["an astronaut", "a cat"]

    async def ask(client):
        both = await client.post("/infer", **form(photo, photo, text=texts))
        words = await client.post("/infer", json={"text": texts[0]})
        image = await client.post("/infer", **form(photo))
        url = f"data:image/jpeg;base64,{base64.b64encode(photo).decode()}"
        wanted = {"model": "clip-tiny", "input": [texts[1], url], "encoding_format": "base64"}
        theirs = await client.post("/v1/embeddings", json=wanted)
        empty = await client.post("/v1/embeddings", json={**wanted, "input": " "})
        return both, words, image, theirs, empty

    both, words, image, theirs, empty = (
        answer.json()
        for answer in asked(ask, "--model_directory", material / "clip-tiny", "--text_column", "caption")
    )
    first, second = both["output"]
    assert first.keys() == {"embedding", "text_embedding", "text_truncated", "clip_score"}
    assert first["embedding"] == pytest.approx(second["embedding"], abs=1e-6)
    score = np.dot(first["embedding"], first["text_embedding"])
    assert first["clip_score"] == pytest.approx(score, abs=1e-6)
    assert words["output"][0]["text_embedding"] == pytest.approx(first["text_embedding"], abs=1e-6)
    assert words["output"][0]["errors"]["embedding"]["code"] == "null_bytes"
    assert image["output"][0]["errors"]["text"]["code"] == "no_text"
    assert empty["error"]["code"] == "no_text"
    vectors = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in theirs["data"]]
    assert vectors[0] == pytest.approx(second["text_embedding"], abs=1e-6)
    assert vectors[1] == pytest.approx(first["embedding"], abs=1e-6)


def test_a_classifier_gives_labels_and_scores(photos):
    coffee = encode(photos[2])

    async def ask(client):
        answer = await client.post("/infer", content=coffee, headers={"content-type": "image/jpeg"})
        wanted = {"model": "efficientnet_lite0", "input": "data:image/jpeg;base64,AAAA"}
        accept = {"content-type": "image/jpeg", "accept": "application/octet-stream"}
        refused = await client.post("/infer", content=coffee, headers=accept)
        return answer.json(), refused, await client.post("/v1/embeddings", json=wanted)

    answer, refused, theirs = asked(ask, "--task", "classify", "--top_k", "2")
    (row,) = answer["output"]
    assert row["label"] == "espresso"
    assert len(row["top_labels"]) == len(row["top_scores"]) == 2
    assert row["score"] == row["top_scores"][0] > row["top_scores"][1]
    assert (refused.status_code, refused.json()["error"]["code"]) == (406, "no_vector")
    assert (theirs.status_code, theirs.json()["error"]["code"]) == (422, "no_vector")


def test_a_url_is_fetched_only_where_that_is_allowed_and_never_of_a_private_address(tiny_clip, monkeypatch):
    with BadServer() as server:

        async def ask(client):
            there = {"inputs": [{"url": server.url("image/7")}, {"url": server.url("status/404")}]}
            private = await client.post("/infer", json=there)
            monkeypatch.setattr(urls, "ALLOW_PRIVATE", True)
            allowed = await client.post("/infer", json=there)
            file = await client.post("/infer", json={"url": "/etc/passwd"})
            return private, allowed, file, await client.post("/infer", **form(image_bytes(7)))

        environ = {"INFERENCE_SERVER__ALLOW_URLS": "true"}
        private, allowed, file, plain = asked(ask, "--model_directory", tiny_clip, **environ)
    assert [row["error"]["code"] for row in private.json()["output"]] == ["forbidden", "forbidden"]
    found, missing = allowed.json()["output"]
    assert found == pytest.approx(plain.json()["output"][0], abs=1e-6)
    assert missing["error"]["code"] == "not_found"
    assert file.json()["error"]["code"] == "forbidden"
