"""A crowd of clients, good and bad, at one process: each request is answered once, with its own vector."""

import asyncio
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

MAX_BODY = 400_000
N_IMAGES = 40


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
    model = ImageEmbedder(recipe(tiny_clip))
    references = [Reference(data) for data in images]
    columns = [outcomes.columns["embedding"] for outcomes in run_feed(references, model, FeedOptions())]
    vectors = np.concatenate(columns).astype(np.float64)
    apart = [np.abs(vectors[i] - vectors[j]).max() for i in range(N_IMAGES) for j in range(i)]
    assert min(apart) > 1e-4  # else one could pass for another
    return vectors


def metrics_of(client) -> dict[tuple[str, str], float]:
    """Return the samples of the metrics by name, and by status or code."""
    return {
        (sample.name, sample.labels.get("status") or sample.labels.get("type", "")): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def statuses(metrics) -> dict[str, float]:
    return {label: n for (name, label), n in metrics.items() if name == "inference_requests_total"}


def check_counts(crowd, metrics) -> None:
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


def test_of_500_requests_each_is_answered_once_with_its_own_vector(tiny_clip, images, vectors):
    environ = {"INFERENCE_SERVER__MAX_BODY_BYTES": str(MAX_BODY)}
    with live_service("--model_directory", tiny_clip, environ=environ) as service, service.client() as client:
        crowd = Crowd(service.url, images, vectors, MAX_BODY)
        asyncio.run(crowd.ask(500, 32))
        n_counted = 500 - len(crowd.ids["gone_in_head"])
        wait_until(lambda: sum(statuses(metrics_of(client)).values()) >= n_counted, "all are counted")
        check_counts(crowd, metrics_of(client))
        assert service.end() == 0
    told = Counter(line["request_id"] for line in service.log if line.get("request_id"))
    heads = [request_id for kind, ids in crowd.ids.items() if kind != "gone_in_head" for request_id in ids]
    assert told == Counter(heads)
    assert not [line for line in service.log if line.get("level") not in ("INFO", "DEBUG")], service.log
