"""A large JPEG decoded at a smaller scale gives the vector of the whole picture, whatever resizes it."""

from functools import cache

import numpy as np
import pytest
from PIL import Image

from spark_embed.inference.decode import open_image
from spark_embed.inference.preflight.jpeg_scaling import smallest_edge
from spark_embed.models import Inputs, Recipe
from spark_embed.models.vision.image_embedder import ImageEmbedder
from spark_embed.models.vision.preprocess import Preprocessing

from support.image_files import encode
from support.small_models import save_model

SCALE = {"rescale_factor": 1 / 255, "mean": (0.5,) * 3, "std": (0.5,) * 3}
WAYS = {
    "shortest edge": Preprocessing("shortest_edge", (64, 64), (56, 56), "floor", "bicubic", **SCALE),
    "bilinear": Preprocessing("shortest_edge", (64, 64), (64, 64), "round", "bilinear", **SCALE),
    "exact": Preprocessing("exact", (64, 64), (64, 64), "floor", "bicubic", **SCALE),
    "exact, not square": Preprocessing("exact", (64, 48), (56, 48), "floor", "bicubic", **SCALE),
}


@pytest.fixture(scope="module")
def make_jpeg(photos):
    """Make a photo of a size and an orientation, once."""

    @cache
    def make(size: tuple[int, int], orientation: int) -> bytes:
        exif = Image.Exif()
        exif[0x0112] = orientation
        return encode(photos[0].resize(size, Image.Resampling.BICUBIC), quality=90, exif=exif)

    return make


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [(901, 661), (661, 901), (7003, 661)], ids=["wide", "high", "panorama"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_prepared_pixels_are_those_of_the_whole_picture(make_jpeg, way, size, orientation):
    data = make_jpeg(size, orientation)
    opened = open_image(data, min_edge=160)
    assert opened.scale == 4
    pixels = opened.decode()
    prepared = way.prepare(pixels, opened.box)
    whole = way.prepare(open_image(data).decode())
    assert prepared.shape == whole.shape
    assert (prepared.float() - whole.float()).abs().mean() < 1.5
    if "bilinear" not in way.resample and size[0] < 7000:
        assert (way.prepare(pixels).float() - whole.float()).abs().mean() > 1.5


@pytest.fixture(params=["embedded", "clip", "dinov2"])
def model(request, tmp_path) -> ImageEmbedder:
    if request.param == "embedded":
        return ImageEmbedder(Recipe(device="cpu", dtype="float32"))
    save_model(request.param, tmp_path)
    return ImageEmbedder(Recipe(str(tmp_path), device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def make_camera_photos(photos):
    """Make photos whose shorter side has a number of pixels, with the noise of a sensor, once."""

    @cache
    def make(edge: int) -> list[bytes]:
        made = []
        for photo in photos[::2]:
            size = (round(edge * photo.width / photo.height), edge)
            array = np.asarray(photo.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
            array += 5 * np.random.default_rng(0).standard_normal(array.shape, dtype=np.float32)
            made.append(encode(Image.fromarray(np.clip(array, 0, 255).astype(np.uint8)), quality=90))
        return made

    return make


def test_the_vectors_of_camera_photos_keep_their_cosine(model, make_camera_photos):
    """A shorter side of some 3,000 pixels, as 12 megapixels have."""
    min_edge = smallest_edge(model)
    scaled, whole = [], []
    for data in make_camera_photos(round(4.73 * min_edge)):
        opened = open_image(data, min_edge=min_edge)
        assert opened.scale == 4
        scaled.append(model.prepare(Inputs(opened.decode(), box=opened.box)))
        whole.append(model.prepare(Inputs(open_image(data).decode())))
    vectors = [model.predict(batch).columns["embedding"] for batch in (scaled, whole)]
    assert np.sum(vectors[0] * vectors[1], axis=1).min() > 0.999
