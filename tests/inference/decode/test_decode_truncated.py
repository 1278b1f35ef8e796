"""Truncated images with --allow_truncated: as far as they go, for the run that asked for it and no other."""

import threading

import numpy as np
import pytest
from PIL import Image, ImageFile

from spark_embed.config import ModelOptions
from spark_embed.errors import ImageError
from spark_embed.inference.decode import decode
from spark_embed.inference.decode.truncated import truncated_images
from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.fetch.references import Reference
from spark_embed.inference.recipes import make_feed_options

from support.fakes import MeanColour
from support.feeds import run_feed
from support.image_files import encode

# How Pillow reads the others: whole or not at all.
BY_ROWS = {
    "JPEG": {},
    "progressive JPEG": {"progressive": True},
    "PNG": {},
    "GIF": {"interlace": 0},
    "BMP": {},
    "TIFF": {},
}


@pytest.fixture(scope="module")
def photo(photos) -> Image.Image:
    return photos[0].resize((160, 120))


def is_corrupt(data, **options) -> bool:
    try:
        decode(data, **options)
    except ImageError as error:
        return error.code == "corrupt"
    return False


@pytest.mark.parametrize("name", BY_ROWS)
def test_the_rows_that_are_there_are_right(photo, name):
    data = encode(photo, name.split()[-1], **BY_ROWS[name])
    half = data[: len(data) * 2 // 3]
    assert is_corrupt(half)
    pixels = decode(half, allow_truncated=True).astype(int)
    whole = decode(data).astype(int)
    assert pixels.shape == whole.shape
    rows = slice(-40, None) if name == "BMP" else slice(0, 40)  # a BMP begins with the last row
    assert np.abs(pixels[rows] - whole[rows]).mean() < (10 if "progressive" in name else 1)
    assert np.abs(pixels - whole).mean() > 2


def test_without_a_single_row_it_is_corrupt_still(photo):
    assert is_corrupt(encode(photo, "WEBP")[:200], allow_truncated=True)
    assert is_corrupt(encode(photo)[:100], allow_truncated=True)


def test_what_is_no_image_is_none_with_it_either():
    with pytest.raises(ImageError, match="not_an_image"):
        decode(b"<html>404</html>", allow_truncated=True)


def test_whole_images_have_the_same_pixels(photo):
    for image_format in ("JPEG", "PNG", "WEBP"):
        data = encode(photo, image_format)
        np.testing.assert_array_equal(decode(data, allow_truncated=True), decode(data))


def test_it_is_one_threads_own_affair_and_ends_with_the_image(photo):
    half = encode(photo, "PNG")[:10_000]
    others = []
    with truncated_images(True):
        assert ImageFile.LOAD_TRUNCATED_IMAGES
        thread = threading.Thread(
            target=lambda: others.append((bool(ImageFile.LOAD_TRUNCATED_IMAGES), is_corrupt(half)))
        )
        thread.start()
        thread.join()
    assert others == [(False, True)]
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    decode(half, allow_truncated=True)
    assert is_corrupt(half)


def test_what_others_set_for_themselves_stays_and_does_not_reach_us(photo, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert is_corrupt(encode(photo, "PNG")[:10_000])
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    decode(encode(photo, "PNG")[:10_000], allow_truncated=True)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("allowed", [False, True])
def test_the_option_reaches_every_way_of_decoding(photo, allowed, isolated):
    halves = [encode(photo, image_format)[:3000] for image_format in ("JPEG", "PNG")]
    options = make_feed_options(ModelOptions(allow_truncated=allowed))
    assert options == FeedOptions(
        max_pixels=100_000_000, decode_timeout_s=30, allow_truncated=allowed, isolated=False
    )
    options = FeedOptions(allow_truncated=allowed, isolated=isolated)
    (chunk,) = run_feed(map(Reference, halves), MeanColour(), options)
    assert [error and error.code for error in chunk.errors["embedding"]] == [
        None if allowed else "corrupt"
    ] * 2
