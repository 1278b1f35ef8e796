"""Of an image with several frames the first counts; the others are never decoded."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageSequence

from spark_embed.inference.decode import decode

from support.image_files import encode

COLOURS = ("red", "lime", "blue")


def frames(size: int = 40) -> list[Image.Image]:
    """Three frames: one colour each, and noise, so that every frame takes some bytes."""
    noise = np.random.default_rng(2).integers(0, 40, (size, size, 3), dtype=np.uint8)
    return [
        Image.fromarray(
            np.abs(np.asarray(Image.new("RGB", (size, size), colour)).astype(int) - noise).astype(np.uint8)
        )
        for colour in COLOURS
    ]


def animated(image_format: str, **options) -> bytes:
    first, *others = frames()
    return encode(first, image_format, save_all=True, append_images=others, **options)


def last_frame_damaged(data: bytes) -> bytes:
    """Overwrite a part of the last third, where the last of three frames is."""
    start, end = len(data) * 3 // 4, len(data) * 7 // 8
    return data[:start] + b"\xff" * (end - start) + data[end:]


def load_all(data: bytes) -> None:
    for frame in ImageSequence.Iterator(Image.open(io.BytesIO(data))):
        frame.load()


OPTIONS = {"GIF": {}, "WEBP": {"lossless": True}, "PNG": {}, "TIFF": {"compression": "tiff_lzw"}}


@pytest.mark.parametrize("image_format", OPTIONS)
def test_a_later_frame_may_be_corrupt(image_format):
    whole = animated(image_format, **OPTIONS[image_format])
    damaged = last_frame_damaged(whole)
    np.testing.assert_array_equal(decode(damaged), decode(whole))
    assert decode(whole)[..., 0].mean() > 200  # red
    load_all(whole)
    with pytest.raises((OSError, EOFError, SyntaxError)):
        load_all(damaged)


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"])
def test_no_other_frame_is_sought(image_format, monkeypatch):
    sought = []
    for plugin in Image.OPEN.values():
        seek = getattr(plugin[0], "seek", None)
        if isinstance(plugin[0], type) and seek:
            monkeypatch.setattr(
                plugin[0], "seek", lambda self, frame, seek=seek: sought.append(frame) or seek(self, frame)
            )
    assert decode(animated(image_format)).shape == (40, 40, 3)
    assert set(sought) <= {0}


def test_a_file_of_many_frames_takes_no_longer_than_one(monkeypatch):
    """Frames are counted by the loads that Pillow makes."""
    loads = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: loads.append(self) or load(self))
    first = Image.new("RGB", (20, 20), "red")
    others = [Image.new("RGB", (20, 20), (0, n, 0)) for n in range(200)]
    array = decode(encode(first, "GIF", save_all=True, append_images=others))
    assert array[0, 0].tolist() == [255, 0, 0]
    assert len({id(image) for image in loads}) == 1
