"""JPEGs much larger than needed are decoded at a smaller scale: the same picture, in the same place."""

import io

import numpy as np
import pytest
from PIL import Image

from spark_embed.errors import ImageError
from spark_embed.inference.decode import InProcessDecoder, PillowImage, PlainJpeg, open_image
from spark_embed.inference.decode.isolated import IsolatedDecoder

from support.image_files import encode, with_segment

MIN_EDGE = 100


@pytest.fixture(scope="module")
def photo(photos) -> Image.Image:
    """A photo 901 x 603 large: no scale divides its sides."""
    return photos[0].resize((901, 603), Image.Resampling.BICUBIC)


def exif_with(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def shrunk(pixels: np.ndarray, box, size: tuple[int, int]) -> np.ndarray:
    """The picture in these pixels, 60 pixels on its shorter side."""
    image = Image.fromarray(pixels)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=box), dtype=int)


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        *(((99, 99), 1), ((199, 900), 1), ((200, 900), 2), ((900, 399), 2), ((401, 900), 4), ((800, 800), 8)),
        *(((6000, 900), 8), ((6000, 60), 1)),
    ],
    ids=str,
)
def test_the_smallest_scale_that_leaves_enough_of_the_shorter_side(size, scale):
    opened = open_image(encode(Image.new("RGB", size)), min_edge=MIN_EDGE)
    assert opened.scale == scale
    assert (opened.width, opened.height) == size
    assert opened.decode().shape[:2] == (-(-size[1] // scale), -(-size[0] // scale))


def test_without_a_wanted_size_or_for_another_format_nothing_is_scaled(photo):
    assert open_image(encode(photo)).scale == 1
    for image_format in ("PNG", "WEBP", "TIFF"):
        opened = open_image(encode(photo, image_format), min_edge=MIN_EDGE)
        assert (opened.scale, opened.decode().shape) == (1, (603, 901, 3))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_picture_lies_where_it_lies_at_full_size(photo, mode, options, orientation):
    """Within a grey level on average; taken without its box it is off by several."""
    data = encode(photo.convert(mode), quality=90, exif=exif_with(orientation), **options)
    opened = open_image(data, min_edge=MIN_EDGE)
    assert isinstance(opened, PillowImage if mode == "CMYK" else PlainJpeg)
    assert opened.scale == 4
    scaled, whole = opened.decode(), open_image(data).decode()
    assert scaled.shape[:2] == tuple(-(-side // 4) for side in whole.shape[:2])
    assert scaled.flags.c_contiguous
    size = (60, 90) if orientation > 4 else (90, 60)
    expected = shrunk(whole, None, size)
    assert np.abs(shrunk(scaled, opened.box, size) - expected).mean() < 1
    if mode == "RGB":
        assert np.abs(shrunk(scaled, None, size) - expected).mean() > 2


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
def test_both_decoders_scale_to_the_same_pixels(photo, options):
    data = encode(photo, quality=90, **options)
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (901 // 4, 603 // 4))
        np.testing.assert_array_equal(open_image(data, min_edge=MIN_EDGE).decode(), np.asarray(image))


def test_one_that_is_left_to_pillow_is_scaled_as_well(photo):
    """Cut short, it is refused by libjpeg-turbo's strict reading; Pillow takes it where that is allowed."""
    data = encode(photo, quality=90)
    cut = data[: len(data) * 3 // 4]
    with pytest.raises(ImageError):
        open_image(cut, min_edge=MIN_EDGE).decode()
    opened = open_image(cut, min_edge=MIN_EDGE, allow_truncated=True)
    top = np.s_[: 603 // 4 // 2]
    np.testing.assert_array_equal(opened.decode()[top], open_image(data, min_edge=MIN_EDGE).decode()[top])
    assert opened.box == (0, 0, 901 / 4, 603 / 4)


def test_a_child_gives_the_same_pixels_and_box(photo):
    data = encode(photo, exif=exif_with(6))
    isolated, here = IsolatedDecoder(min_edge=MIN_EDGE), InProcessDecoder(min_edge=MIN_EDGE)
    try:
        opened, expected = isolated.open_image(data), here.open_image(data)
        assert (opened.scale, opened.peak_bytes) == (4, expected.peak_bytes)
        np.testing.assert_array_equal(opened.decode(), expected.decode())
        assert opened.box == expected.box == (151 - 603 / 4, 0, 151, 901 / 4)
    finally:
        isolated.close()


def test_the_limits_are_of_the_size_that_the_file_has(photo):
    with pytest.raises(ImageError, match="901 x 603"):
        open_image(encode(photo), max_pixels=901 * 603 - 1, min_edge=MIN_EDGE)


def test_the_memory_is_that_of_the_scaled_size_but_a_progressive_one_keeps_its_coefficients(photo):
    def peak_bytes(**options):
        data = with_segment(encode(photo, **options), 0xED, bytes(60_000))  # found behind large segments, too
        return open_image(data, min_edge=MIN_EDGE).peak_bytes

    n_pixels = 901 * 603
    assert peak_bytes() < n_pixels
    assert peak_bytes(progressive=True) > 6 * n_pixels
