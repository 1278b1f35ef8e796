"""What the tests share: one Spark session, real photos, the material beside the checkout."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Workers must run this interpreter, and nothing in a test may reach for a hub.
os.environ["PYSPARK_PYTHON"] = sys.executable
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("SPARK_HOME", None)

REPOSITORY = Path(__file__).parent.parent
MATERIAL = REPOSITORY.parent / "shared" / "material"


@pytest.fixture(scope="session")
def material() -> Path:
    """The folder of third-party files; see NOTES.md in it."""
    if not MATERIAL.is_dir():
        pytest.skip("no ../shared/material beside this checkout: third-party files are not copied into it")
    return MATERIAL


@pytest.fixture(scope="session")
def spark():
    """One local session for all tests, made as a job makes it."""
    from spark_embed.config import Config
    from spark_embed.session import make_session

    session = make_session(Config(input_dir="unused", output_dir="unused", num_workers=2))
    yield session
    session.stop()


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


def encode(image: Image.Image, image_format: str = "JPEG", **options) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photo_bytes(photos) -> list[bytes]:
    """The photos as JPEG files."""
    return [encode(photo, quality=92) for photo in photos]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of `a` with the same row of `b`."""
    return np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
