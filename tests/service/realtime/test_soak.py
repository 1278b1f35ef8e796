"""A crowd of clients, good and bad, at one process: each request is answered once, with its own vector."""

import asyncio
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.fetch.references import Reference
from spark_embed.models.vision.image_embedder import ImageEmbedder

from support.feeds import run_feed
from support.image_files import encode
from support.live_service import live_service
from support.mixed_clients import GONE, STATUS, Crowd
from support.small_models import recipe
from support.waiting import wait_until

MAX_BODY = 1 << 20
N_IMAGES = 40
MAY_GROW_BYTES = 20_000_000  # 400 bytes for each of 50,000 requests


@pytest.fixture(scope="module")
def images(photos) -> list[bytes]:
    """Photos turned and cut, each unlike the others."""
    made = []
    for number in range(N_IMAGES):
        photo = photos[number % len(photos)].rotate(90 * (number // len(photos)), expand=True)
        width, height = photo.size
        photo = photo.crop((number, number, width // 2 + 4 * number, height // 2 + 3 * number))
        made.append(encode(photo.resize((160, 120), Image.Resampling.BILINEAR), quality=85))
    return made


@pytest.fixture(scope="module")
def vectors(tiny_clip, images) -> np.ndarray:
    """What a task of a run makes of the images."""
    vectors = np.asarray(by_task(tiny_clip, images), np.float64)
    apart = [np.abs(vectors[i] - vectors[j]).max() for i in range(N_IMAGES) for j in range(i)]
    assert min(apart) > 1e-4  # else one could pass for another
    return vectors


@pytest.fixture(scope="module")
def service(tiny_clip):
    environ = {"INFERENCE_SERVER__MAX_BODY_BYTES": str(MAX_BODY)}
    with live_service("--model_directory", tiny_clip, environ=environ) as service:
        yield service


def by_task(folder, images: list[bytes]) -> list:
    """Return what a task of a run makes of images: a vector, or a code."""
    model = ImageEmbedder(recipe(folder))
    made = []
    for outcomes in run_feed(map(Reference, images), model, FeedOptions()):
        given = iter(outcomes.columns["embedding"])
        made += [next(given) if error is None else error.code for error in outcomes.errors["embedding"]]
    return made


def metrics_of(client, before: dict | None = None) -> Counter:
    """Return the samples of the metrics by name, and by status or code; the counters since `before`."""
    told = Counter(
        {
            (sample.name, sample.labels.get("status") or sample.labels.get("type", "")): sample.value
            for family in text_string_to_metric_families(client.get("/metrics").text)
            for sample in family.samples
        }
    )
    for name in told:
        if before and name[0].endswith("_total"):
            told[name] -= before[name]
    return told


def statuses(metrics: Counter) -> dict[str, float]:
    return {label: n for (name, label), n in metrics.items() if name == "inference_requests_total" and n}


def check_counts(crowd: Crowd, metrics: Counter) -> None:
    """The metrics say what was sent."""
    n_of = {kind: len(ids) for kind, ids in crowd.ids.items()}
    refused: Counter[str] = Counter()
    for kind, status in STATUS.items():
        refused[str(status)] += n_of[kind]
    answered = sum(n for kind, n in n_of.items() if kind not in STATUS and kind not in GONE)
    told = statuses(metrics)
    assert {status: told.get(status, 0) for status in refused} == dict(refused)
    assert told.keys() <= {*refused, "200", "499"}
    n_in_time = told["200"] - answered  # before it was seen that they had gone
    assert 0 <= n_in_time <= n_of["gone_waiting"]
    assert told["499"] == n_of["gone_in_body"] + n_of["gone_waiting"] - n_in_time
    assert {code: metrics["inference_errors_total", code] for code in crowd.codes} == dict(crowd.codes)
    assert metrics["inference_errors_total", "client_gone"] == told["499"]
    assert metrics["inference_queue_depth", ""] == 0


@pytest.mark.filterwarnings("ignore")
def test_hostile_images_have_the_codes_and_vectors_of_a_run(service, tiny_clip, material):
    """Of Pillow's own odd and broken files."""
    paths = sorted(path for path in (material / "hostile").iterdir() if path.suffix != ".csv")
    paths = [path for path in paths if path.stat().st_size < MAX_BODY / 4]
    images = [path.read_bytes() for path in paths]
    answered = []
    with service.client() as client:
        for at in range(0, len(images), 16):
            files = [("image", ("a", data)) for data in images[at : at + 16]]
            answered += client.post("/infer", files=files).raise_for_status().json()["output"]
    expected = by_task(tiny_clip, images)
    codes = [row["error"]["code"] if isinstance(row, dict) else None for row in answered]
    assert codes == [code if isinstance(code, str) else None for code in expected]
    assert {"corrupt", "too_many_pixels"} <= set(codes)
    for path, vector, its_own in zip(paths, answered, expected, strict=True):
        if not isinstance(vector, dict):
            np.testing.assert_allclose(vector, its_own, atol=1e-5, err_msg=path.name)


def test_of_500_requests_each_is_answered_once_with_its_own_vector(service, images, vectors):
    with service.client() as client:
        before = metrics_of(client)
        crowd = Crowd(service.url, images, vectors, MAX_BODY)
        asyncio.run(crowd.ask(500, 32))
        n_counted = 500 - len(crowd.ids["gone_in_head"])
        wait_until(lambda: sum(statuses(metrics_of(client, before)).values()) >= n_counted, "all are counted")
        check_counts(crowd, metrics_of(client, before))
    assert service.end() == 0
    told = Counter(line["request_id"] for line in service.log if line.get("request_id"))
    heads = {request_id for kind, ids in crowd.ids.items() if kind != "gone_in_head" for request_id in ids}
    assert {request_id: told[request_id] for request_id in heads} == dict.fromkeys(heads, 1)
    assert told.keys().isdisjoint(crowd.ids["gone_in_head"])
    # A broken image is no news of the service's; only libtiff, a C library, writes to stderr.
    assert {line.get("level") for line in service.log} <= {"INFO", None}
    assert "Traceback" not in str(service.log)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_10000_requests_of_all_kinds_then_memory_is_flat_over_50000(tiny_clip, images, vectors, capsys):
    environ = {"INFERENCE_SERVER__MAX_BODY_BYTES": str(MAX_BODY)}
    with live_service("--model_directory", tiny_clip, environ=environ) as service, service.client() as client:
        crowd = Crowd(service.url, images, vectors, MAX_BODY)
        memory = []
        for n_requests in [10_000] + [5_000] * 10:
            started = time.perf_counter()
            asyncio.run(crowd.ask(n_requests, 32))
            memory.append(service.memory_bytes())
            with capsys.disabled():
                pace = n_requests / (time.perf_counter() - started)
                print(f"\n{n_requests} more requests, {pace:.0f}/s: {memory[-1] / 1e6:.1f} MB", end="")  # noqa: T201
        n_counted = 60_000 - len(crowd.ids["gone_in_head"])
        wait_until(lambda: sum(statuses(metrics_of(client)).values()) >= n_counted, "all are counted")
        check_counts(crowd, metrics_of(client))
        with capsys.disabled():
            print(f"\ncosine >= {crowd.closest:.9f}, at most {crowd.furthest:.1e} apart; {dict(crowd.codes)}")  # noqa: T201
        assert service.end() == 0
    assert "Traceback" not in str(service.log)
    assert memory[-1] - memory[0] < MAY_GROW_BYTES
