"""What the tests share: one Spark session, real photos, the material beside the checkout."""

import json
import logging
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from PIL import Image

from support.bad_server import BadServer
from support.checkout import MATERIAL, TESTS
from support.image_files import encode
from support.waiting import PATIENCE_S

pytest_plugins = [
    "support.s3_fixtures",
    "support.crash_fixtures",
    "support.cluster_fixtures",
    "support.emr_fixtures",
    "support.browser_fixtures",
    "support.batch_fixtures",
]

# Workers must run this interpreter, and nothing in a test may reach for a hub.
os.environ["PYSPARK_PYTHON"] = sys.executable
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("SPARK_HOME", None)
# The JVMs here live for seconds: the plain compiler alone takes a quarter less of the CPU.
os.environ["SPARK_SUBMIT_OPTS"] = "-XX:TieredStopAtLevel=1"
# So that they find what tests share.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))

# A busy machine is no failure.
settings.register_profile("without_deadline", deadline=None)
settings.load_profile("without_deadline")


# Markers of what make test leaves out, why, and what runs it with --<marker>.
LONG = {
    "crash": "takes many minutes: make test-crash",
    "soak": "takes many minutes: make test-soak",
    "airflow": "needs an environment of its own: make test-airflow",
    "workflows": "installs environments of their own: make test-workflows",
    "images": "takes many minutes and gigabytes: make images-test",
    "browser": "needs a browser: make test-browser",
    "notebook": "takes half a minute: make test-notebook",
    "compare": "takes minutes: make test-compare",
}


def pytest_addoption(parser):
    for name in LONG:
        parser.addoption(f"--{name}", action="store_true", help=f"run what is marked `{name}`")


# Fixtures that tests of whole runs use.
WHOLE_RUNS = {"embed", "process", "s3_spark", "start", "submit", "uninterrupted"}


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(config, items):
    n_slow: Counter[Path] = Counter()
    for item in items:
        if not WHOLE_RUNS.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.slow)
        long = next((name for name in LONG if item.get_closest_marker(name)), None)
        if long and not config.getoption(long):
            item.add_marker(pytest.mark.skip(reason=LONG[long]))
        elif item.get_closest_marker("slow"):
            n_slow[item.path] += 1
    # The longest files first: in the end no process waits long for another (--no-loadscope-reorder).
    items.sort(key=lambda item: -n_slow[item.path])


@pytest.fixture(scope="session")
def material() -> Path:
    """The folder of third-party files; see NOTES.md in it."""
    if not MATERIAL.is_dir():
        pytest.skip("no ../shared/material beside this checkout: third-party files are not copied into it")
    return MATERIAL


@pytest.fixture(scope="session")
def spark(request):
    """One local session for all tests, made as a job makes it; it can read S3 if there is a server."""
    from spark_embed.config import Config
    from spark_embed.spark.s3.s3a import export_s3_environment
    from spark_embed.spark.session import make_session

    from support.s3_server import can_find_server

    with pytest.MonkeyPatch.context() as patch:
        output_dir = "unused"
        if can_find_server():
            # Workers have the environment that the session began with.
            request.getfixturevalue("s3_server").set_environment(patch)
            output_dir = "s3a://unused"
        config = Config(input_dir="unused", output_dir=output_dir, num_workers=2)
        export_s3_environment(config)
        with pytest.MonkeyPatch.context() as fewer:
            # What fails always is tried twice, not four times: each time a new worker loads the model.
            fewer.setattr("spark_embed.spark.session._TASK_ATTEMPTS", 2)
            session = make_session(config)
        yield session
        session.stop()


@pytest.fixture(autouse=True)
def pillows_own_limit(monkeypatch):
    """Decoding sets Pillow's limit for the whole process: a test's small one is not that of the next."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


@pytest.fixture
def log(caplog, monkeypatch):
    """What the package logs, as text."""
    monkeypatch.setattr(logging.getLogger("spark_embed"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="spark_embed"):
        yield caplog


@pytest.fixture(scope="session")
def photos() -> list[Image.Image]:
    """Real photos out of installed packages: RGB, 320 to 640 pixels wide."""
    import sklearn.datasets
    from skimage import data

    images = [
        Image.fromarray(array) for array in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())
    ]
    images += [Image.fromarray(array) for array in sklearn.datasets.load_sample_images().images]
    return [image.convert("RGB") for image in images]


@pytest.fixture(scope="session")
def photo_bytes(photos) -> list[bytes]:
    """The photos as JPEG files."""
    return [encode(photo, quality=92) for photo in photos]


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> Path:
    """A CLIP with random weights in Hugging Face layout: 24 values, a few milliseconds to load."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**text, "image_size": 64, "patch_size": 16, "projection_dim": 24}
    config = CLIPConfig(text_config={**text, "vocab_size": 50}, vision_config=vision, projection_dim=24)
    folder = tmp_path_factory.mktemp("models") / "tiny-clip"
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 64, "width": 64}
    CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """A small CLIP with a projection, of random weights."""
    from support.small_models import save_model

    folder = tmp_path_factory.mktemp("models") / "clip"
    save_model("clip", folder)
    return folder


@pytest.fixture(scope="module")
def clip(clip_folder):
    """The same, loaded."""
    from spark_embed.models.vision.image_embedder import ImageEmbedder

    from support.small_models import recipe

    return ImageEmbedder(recipe(clip_folder))


@pytest.fixture(scope="session")
def shards(tmp_path_factory, photo_bytes) -> Path:
    """Three shards in img2dataset's shape: 24 photos, and a failed download in each shard."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(3):
        images = [photo_bytes[(shard + row) % len(photo_bytes)] for row in range(8)]
        rows = [
            {"key": f"{shard}{row}", "caption": f"photo {row}", "width": row, "jpg": data}
            for row, data in enumerate([*images[:5], None, *images[5:]])
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard:05d}.parquet")
    return folder


@pytest.fixture
def embed(spark, tiny_clip, tmp_path):
    """Run a folder through the tiny CLIP; returns metadata.json, the embeddings and the errors."""

    def embed(input_dir, **options):
        """Give it to run()."""
        from spark_embed.config import Config
        from spark_embed.pipeline import run

        given = {"model_directory": str(tiny_clip), "output_dir": str(tmp_path / "out"), **options}
        given.setdefault("fail_on_bad_shard", False)  # its summary is looked at all the same
        summary = run(spark, Config(input_dir=str(input_dir), **given))
        metadata = json.loads((tmp_path / "out/metadata.json").read_text())
        assert metadata == json.loads(json.dumps(summary.to_dict()))
        embeddings = pd.read_parquet(f"{given['output_dir']}/embeddings.parquet")
        errors = pd.read_parquet(f"{given['output_dir']}/errors.parquet")
        assert len(embeddings) + len(errors) == metadata["counts"]["rows"]
        return metadata, embeddings, errors

    embed.output_dir = tmp_path / "out"
    return embed


@pytest.fixture
def command_here(capsys, tiny_clip):
    """Give the command to this process; returns its exit code and what it says to stderr.

    What it writes to stdout is `printed`.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def command_here(*argv) -> tuple[int, str]:
        """Give it all but the model."""
        from spark_embed.cli.main import main

        code = main([*map(str, argv), "--model_directory", str(tiny_clip)])
        said = capsys.readouterr()
        command_here.printed = said.out
        return code, said.err.strip()

    yield command_here
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def embedded_rows(monkeypatch):
    """The rows that go through the model, run by run: whoever runs waves is watched."""
    from spark_embed import pipeline
    from spark_embed.run import waves

    runs: list[int] = []
    original = waves.run_waves

    def watched(context, units, *others):
        units = list(units)
        runs.append(sum(unit.n_rows for unit in units))
        return original(context, units, *others)

    monkeypatch.setattr(pipeline, "run_waves", watched)
    return runs


@pytest.fixture(scope="module")
def server():
    """One that misbehaves as its urls say; the tests of a file share it."""
    with BadServer() as server:
        yield server


@pytest.fixture
def own_server():
    """One that nobody has asked for anything yet."""
    with BadServer() as server:
        yield server


@pytest.fixture
def nothing_is_left_behind():
    """No thread of a feed outlives the test."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith(("download", "name", "decode")):
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), thread


@pytest.fixture
def short_pauses(monkeypatch):
    """A server that fails is soon asked again."""
    monkeypatch.setattr("spark_embed.inference.fetch.http_client._PAUSE_S", 0.05)


@pytest.fixture
def model_copies(tmp_path, monkeypatch) -> Path:
    """Where copies of models from S3 are kept: in an empty folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/spark_embed/models"
