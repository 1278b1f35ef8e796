"""The probe binds the run: what it measures decides the precision, and what it cannot measure, too."""

import threading
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pyspark
import pytest
import torch

from spark_embed.errors import ModelError
from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.fetch.references import Reference
from spark_embed.inference.preflight import probe as probe_module
from spark_embed.inference.preflight import rows as rows_module
from spark_embed.inference.preflight.parity import Parity
from spark_embed.inference.preflight.preflight import run_preflight
from spark_embed.inference.preflight.probe import ProbeOptions
from spark_embed.inference.preflight.probe import probe as run_probe
from spark_embed.inference.preflight.sample import SampleRow
from spark_embed.models import Recipe
from spark_embed.models.registry import IMAGE_CLASSIFIER
from spark_embed.models.vision import network
from spark_embed.models.vision.image_embedder import ImageEmbedder

from support.image_files import encode
from support.small_models import save_classifier, save_model

WANTED = ProbeOptions(n_images=4, min_cosine=0.99)


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    save_model("clip", tmp_path)
    return Recipe(str(tmp_path), device="cpu")


@pytest.fixture
def fast_bfloat16(monkeypatch):
    """A device on which dtype "auto" is bfloat16, on any machine."""
    monkeypatch.setattr(
        network, "resolve_dtype", lambda dtype, device: "bfloat16" if dtype == "auto" else dtype
    )


def probe(recipe: Recipe, images: list[bytes | None], wanted: ProbeOptions = WANTED) -> dict:
    """Run the probe in this process."""
    sample = [SampleRow(Reference(data), "a.parquet", row) for row, data in enumerate(images)]
    return run_probe(sample, recipe, FeedOptions(), wanted)


def test_auto_keeps_the_fast_precision_that_agrees_with_float32(fast_bfloat16, recipe, photo_bytes):
    answer = probe(recipe, photo_bytes)
    assert answer["recipe"]["dtype"] == "bfloat16"
    assert answer["parity"]["n_images"] == 4
    assert answer["parity"]["rejected"] is None


@pytest.mark.parametrize(
    ("images", "unread"),
    [([None] * 3, "null_bytes"), ([b"no image", None], "not_an_image"), ([], "None")],
    ids=["null", "broken", "no rows"],
)
def test_auto_is_float32_where_nothing_could_be_measured(fast_bfloat16, recipe, images, unread):
    answer = probe(recipe, images)
    assert answer["recipe"]["dtype"] == "float32"
    assert (answer["parity"]["n_images"], answer["parity"]["rejected"]) == (0, None)
    assert str(answer["unread"]).partition(":")[0] == unread
    chosen = probe(replace(recipe, dtype="bfloat16"), images)
    assert chosen["recipe"]["dtype"] == "bfloat16"
    unasked = probe(recipe, images, replace(WANTED, n_images=0))
    assert unasked["recipe"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("cosine", [0.98, float("nan")])
def test_auto_is_float32_where_the_fast_precision_falls_short(
    fast_bfloat16, recipe, photo_bytes, monkeypatch, cosine
):
    def measure(model: ImageEmbedder, sample: list, references: np.ndarray) -> Parity:
        return Parity(len(sample), 1.0 if model.recipe.dtype == "float32" else cosine, 0.5)

    monkeypatch.setattr("spark_embed.inference.preflight.probe.measure_parity", measure)
    answer = probe(recipe, photo_bytes)
    assert answer["recipe"]["dtype"] == "float32"
    assert answer["parity"]["rejected"]["dtype"] == "bfloat16"
    assert answer["parity"]["min_cosine"] == 1.0


def large_jpegs(photos) -> list[bytes]:
    """The photos with a shorter side of 1,211 pixels: for a CLIP, twice 2.5 times 224 and some."""
    sizes = [(round(1211 * photo.width / photo.height), 1211) for photo in photos]
    return [encode(photo.resize(size), quality=90) for photo, size in zip(photos, sizes, strict=True)]


def test_large_jpegs_are_scaled_if_the_sample_keeps_parity_so(recipe, photos, photo_bytes):
    images = [photo_bytes[0], *large_jpegs(photos[:3])]
    asked = replace(WANTED, jpeg_scaling=None)
    answer = probe(recipe, images, asked)
    scaling = answer["parity"]["jpeg_scaling"]
    assert answer["model"]["jpeg_scaling"] == scaling["min_edge"] == 560
    assert (scaling["n_images"], answer["parity"]["n_images"]) == (3, 4)
    assert 0.999 < scaling["min_cosine"] == answer["parity"]["min_cosine"] < 1

    strict = probe(recipe, images, replace(asked, min_cosine=1.0))
    whole = probe(recipe, images, replace(WANTED, min_cosine=1.0, jpeg_scaling=False))["parity"]
    assert strict["model"]["jpeg_scaling"] is None
    assert strict["parity"]["min_cosine"] == whole["min_cosine"]
    assert strict["parity"]["max_pixel_difference"] == whole["max_pixel_difference"] > 0
    assert strict["parity"]["jpeg_scaling"]["why_not"].startswith(
        "with it smallest cosine with plain transformers is 0.99"
    )


def test_labels_decide_in_the_same_way(fast_bfloat16, photos, tmp_path, monkeypatch):
    save_classifier("vit", tmp_path)
    options = (("with_embedding", False), ("top_k", 2), ("min_score", 0.0))
    classifier = Recipe(str(tmp_path), device="cpu", kind=IMAGE_CLASSIFIER, options=options)
    images, asked = large_jpegs(photos[:2]), replace(WANTED, jpeg_scaling=None)
    answer = probe(classifier, images, asked)
    assert answer["recipe"]["dtype"] == "bfloat16"
    for measured in (answer["parity"], answer["parity"]["jpeg_scaling"]):
        assert (measured["n_images"], measured["n_same_label"], measured["min_cosine"]) == (2, 2, None)
        assert 0 < measured["max_score_difference"] < 0.02

    monkeypatch.setattr("spark_embed.inference.preflight.parity.MAX_SCORE_DIFFERENCE", 1e-9)
    strict = probe(classifier, images, asked)
    assert strict["recipe"]["dtype"] == "float32"
    assert strict["parity"]["rejected"]["max_score_difference"] > 0
    assert "a score differs" in strict["parity"]["jpeg_scaling"]["why_not"]


@pytest.mark.parametrize(
    ("wanted", "n_images", "why_not"),
    [
        (None, 4, "none of the images compared is a JPEG of 1,120 pixels or more a side"),
        (None, 0, "none of the images compared is a JPEG of 1,120 pixels or more a side"),
        (False, 4, None),
    ],
)
def test_nothing_is_scaled_that_was_not_measured(recipe, photos, photo_bytes, wanted, n_images, why_not):
    images = photo_bytes if n_images else large_jpegs(photos[:1])
    answer = probe(recipe, images, replace(WANTED, n_images=n_images, jpeg_scaling=wanted))
    assert answer["model"]["jpeg_scaling"] is None
    assert answer["parity"]["jpeg_scaling"]["why_not"] == why_not


def test_what_an_earlier_run_has_decided_is_kept(recipe, photo_bytes):
    answer = probe(recipe, photo_bytes, replace(WANTED, jpeg_scaling=True))
    assert answer["model"]["jpeg_scaling"] == 560


def test_a_model_that_prepares_images_in_its_own_way_gets_them_whole(tmp_path, photos):
    save_model("siglip2-naflex", tmp_path)
    wanted = replace(WANTED, jpeg_scaling=None)
    answer = probe(Recipe(str(tmp_path), device="cpu"), large_jpegs(photos[:1]), wanted)
    assert answer["model"]["jpeg_scaling"] is None
    assert "in its own way" in answer["parity"]["jpeg_scaling"]["why_not"]


def test_broken_images_at_the_start_leave_others_to_compare(recipe, photo_bytes):
    answer = probe(recipe, [None, b"", b"no image", photo_bytes[0][:300], *photo_bytes])
    assert answer["parity"]["n_images"] == WANTED.n_images
    assert answer["unread"] is None


def test_an_image_of_many_bytes_is_not_compared(recipe, photo_bytes, monkeypatch):
    monkeypatch.setattr(rows_module, "MAX_SAMPLE_BYTES", len(photo_bytes[0]) - 1)
    assert probe(recipe, photo_bytes[:1])["parity"]["n_images"] == 0


def test_versions_are_the_workers_and_unknown_without_metadata(recipe, monkeypatch):
    def find(package: str) -> str:
        if package == "spark_embed":
            raise PackageNotFoundError(package)
        return version(package)

    versions = probe(recipe, [])["versions"]
    assert versions["pyspark"] == pyspark.__version__
    assert versions["spark_embed"] == version("spark-embed")
    monkeypatch.setattr(probe_module, "version", find)
    assert probe(recipe, [])["versions"]["spark_embed"] == "unknown"


def test_a_model_that_cannot_run_is_one_answer_and_no_failed_task(spark, tmp_path):
    save_model("clip", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ModelError, match="image processor cannot be loaded"):
        run_preflight(spark, [], Recipe(str(tmp_path)), FeedOptions(), WANTED)


def test_the_pace_binds_the_run(recipe, photo_bytes):
    answer = probe(recipe, photo_bytes)
    assert answer["batch_size"] == 32
    assert 0 < answer["row_s"] < 5
    assert probe(recipe, photo_bytes, replace(WANTED, batch_size=None))["batch_size"] in (
        8,
        16,
        32,
        64,
        128,
        256,
        512,
    )
    assert probe(recipe, [None])["row_s"] is None


def test_what_compiling_took_and_gained_is_told(recipe, photo_bytes, monkeypatch):
    """Here nothing is compiled, in a while: tests/models/vision/test_compiled.py."""

    def compile_nothing(function, **options):
        threading.Event().wait(0.2)
        return function

    monkeypatch.setattr(torch, "compile", compile_nothing)
    answer = probe(
        replace(recipe, dtype="float32", compile_rows=8), photo_bytes, replace(WANTED, batch_size=4)
    )
    assert answer["recipe"]["compile_rows"] == 4  # the batch size of the run
    assert answer["model"]["compiled"]["speedup"] > 0
    assert answer["model"]["compiled"]["seconds"] >= 0.2
    assert answer["parity"]["min_cosine"] > 0.9999


def test_a_worker_that_cannot_load_the_model_stops_the_run_in_one_line(embed, shards, tmp_path, monkeypatch):
    """Preflight looks at one machine; another one's disk may be full, or its way to the model closed."""
    gone = tmp_path / "gone"

    def look_elsewhere(*args):
        found = run_preflight(*args)
        return replace(found, recipe=replace(found.recipe, source=str(gone)))

    monkeypatch.setattr("spark_embed.run.binding.run_preflight", look_elsewhere)
    with pytest.raises(ModelError, match=f"^--model_directory {gone}: there is no such folder .on a worker"):
        embed(shards)
