"""Broken, foreign and hostile bytes: an ImageError with the right code, in little memory."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from spark_embed.errors import ERROR_DETAIL_CHARS, ImageError
from spark_embed.inference.decode import can_decode_heic, decode, open_image, pillow, rgb
from spark_embed.inference.decode.heif import register_heif

from support import image_files
from support.image_files import FORMATS, encode, noise_image
from support.quiet_process import quiet_process

if can_decode_heic():
    register_heif()
needs_heif = pytest.mark.skipif(not can_decode_heic(), reason="pillow-heif is not installed (extra: heic)")

MIB = 1 << 20
SLOWEST_S = 2.5


def error_of(data, **limits) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, **limits)
    assert len(caught.value.detail) <= ERROR_DETAIL_CHARS
    return caught.value


def code_of(data) -> str | None:
    try:
        decode(data)
    except ImageError as error:
        return error.code
    return None


@pytest.fixture(scope="module")
def quiet():
    """A process that decodes and counts. Skips where the kernel does not keep this count."""
    try:
        with quiet_process() as process:
            yield process
    except (OSError, AttributeError):
        pytest.skip("needs Linux with glibc: no peak memory to read")


FOREIGN = {
    "nothing": b"",
    "html": b"<!DOCTYPE html><html><body>404 not found</body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>',
    "text": b"BANANA " * 20,
    "zeros": bytes(1000),
    "three bytes of a JPEG": b"\xff\xd8\xff",
    **{f"random {seed}": np.random.default_rng(seed).bytes(500) for seed in range(5)},
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_image_is_called_so(data):
    assert error_of(data).code == "not_an_image"


def test_a_git_lfs_pointer_is_called_one():
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:2d71\nsize 123456\n"
    error = error_of(pointer)
    assert (error.code, "git lfs pull" in error.detail) == ("not_an_image", True)


@pytest.mark.parametrize("image_format", ["EPS", "PPM", "ICO", "TGA", "PCX", "SGI", "DDS"])
def test_formats_that_are_not_on_the_list_are_not_opened(image_format):
    data = encode(Image.new("RGB", (32, 32)), image_format)
    assert Image.open(io.BytesIO(data)).size == (32, 32)  # Pillow would
    assert error_of(data).code == "not_an_image"


@pytest.mark.parametrize("kept", [0.95, 0.6, 0.3, 16])
@pytest.mark.parametrize("image_format", FORMATS)
def test_a_truncated_image_is_corrupt_wherever_it_is_cut(image_format, kept):
    data = encode(noise_image(), image_format)
    length = kept if isinstance(kept, int) else int(kept * len(data))
    assert error_of(data[:length]).code == "corrupt"


def test_a_damaged_png_is_corrupt():
    rows = [bytes(30)] * 10
    good = image_files.png(10, 10, 8, image_files.PNG_RGB, rows)
    assert decode(good).shape == (10, 10, 3)
    damaged = good.replace(zlib.compress(b"".join(b"\0" + row for row in rows)), b"x" * 12)
    assert error_of(damaged).code == "corrupt"


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_pixel_limit_holds_for_every_format(image_format):
    data = encode(noise_image(40, 30), image_format)
    assert open_image(data, max_pixels=1200).n_pixels == 1200
    assert error_of(data, max_pixels=1199).code == "too_many_pixels"


BOMBS = {
    "png": image_files.png_bomb(),
    "bmp": image_files.bmp_bomb(),
    "gif": image_files.gif_bomb(),
    "webp": image_files.webp_bomb(),
    "tiff tile": image_files.tiff_tile_bomb(),
    "jpeg": image_files.jpeg_bomb(encode(noise_image())),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_announced_pixels_are_refused_before_they_take_memory(bomb, quiet):
    assert len(bomb) < 10_000
    decoded = quiet.decode(bomb)
    assert decoded.code == "too_many_pixels"
    assert decoded.grown_by < 16 * MIB


WORK = {
    "a jpeg of 2000 scans": image_files.scan_bomb(encode(noise_image(), progressive=True), 2000),
    "a cmyk jpeg of 2000 scans": image_files.scan_bomb(
        encode(noise_image().convert("CMYK"), progressive=True), 2000
    ),
    "a bmp that is all filling": image_files.rle_bomb(),
    "a jpeg with 20 MB between its segments": encode(noise_image())[:20]
    + bytes(20_000_000)
    + encode(noise_image())[20:],
    "a jpeg with 20,000 exif segments": b"\xff\xd8"
    + 20_000 * (b"\xff\xe1" + (1002).to_bytes(2, "big") + b"Exif\0\0" + bytes(994))
    + encode(noise_image())[2:],
}


@pytest.mark.parametrize("data", WORK.values(), ids=WORK)
def test_a_small_file_cannot_make_much_work(data, quiet):
    decoded = quiet.decode(data)
    assert decoded.code in (None, "corrupt")
    assert decoded.cpu_s < SLOWEST_S
    assert decoded.grown_by < 100 * MIB


def test_a_hundred_bytes_cannot_take_a_gigabyte(quiet):
    """WebP needs 17 bytes for each pixel; the limit grows with that of the pixels."""
    bomb = image_files.webp_canvas(9_900, 10_000)
    decoded = quiet.decode(bomb)
    assert decoded.code == "too_many_pixels"
    assert decoded.detail == "9900 x 10000 of this format take 1605 MiB, more than 953 MiB"
    assert decoded.grown_by < 16 * MIB
    assert open_image(bomb, max_pixels=200_000_000).width == 9_900


@pytest.mark.parametrize(
    ("mode", "image_format", "options"),
    [
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ("RGB", "PNG", {"compress_level": 1}),
        ("RGBA", "PNG", {"compress_level": 1}),
        ("LA", "PNG", {"compress_level": 1}),
        ("RGBA", "WEBP", {"method": 0}),
        ("F", "TIFF", {}),
        ("RGB", "JPEG2000", {}),
        pytest.param("RGB", "HEIF", {}, marks=needs_heif),
    ],
    ids=str,
)
def test_no_decoder_takes_more_memory_than_it_announces(mode, image_format, options, quiet):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = noise_image(75, 75).resize((1500, 1500)).convert(mode)
    data = encode(image, image_format, exif=exif, **options)
    decoded = quiet.decode(data)
    assert 0 < decoded.n_bytes < decoded.announced
    assert 0 < decoded.grown_by < decoded.announced + MIB


def test_memory_that_runs_out_is_named(monkeypatch):
    def no_memory(self):
        raise MemoryError

    opened = open_image(encode(noise_image(), "PNG"))
    monkeypatch.setattr(Image.Image, "load", no_memory)
    monkeypatch.setattr(type(opened._opened), "load", no_memory)
    with pytest.raises(ImageError) as caught:
        opened.decode()
    assert caught.value.code == "out_of_memory"


def test_a_mistake_of_ours_is_no_corrupt_image(monkeypatch):
    """Only calls of Pillow stand within the boundary."""

    def make_mistake(*_):
        raise ZeroDivisionError("a bug")

    for module, name in ((rgb, "_conversion"), (pillow, "upright"), (pillow, "PillowImage")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, make_mistake)
            with pytest.raises(ZeroDivisionError, match="a bug"):
                decode(encode(noise_image(), "PNG"))
