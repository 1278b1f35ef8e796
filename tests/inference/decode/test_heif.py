"""HEIC where pillow-heif is installed, and what is said of it where it is not."""

import numpy as np
import pytest
from PIL import Image

from spark_embed.errors import ImageError
from spark_embed.inference.decode import can_decode_heic, decode, open_image
from spark_embed.inference.decode import pillow as decode_pillow

from support.image_files import encode

needs_heif = pytest.mark.skipif(not can_decode_heic(), reason="pillow-heif is not installed (extra: heic)")


def heic(image: Image.Image, **options) -> bytes:
    from spark_embed.inference.decode.heif import register_heif

    register_heif()
    return encode(image, "HEIF", **options)


@needs_heif
@pytest.mark.parametrize("major_brand", [b"heic", b"mif1"])
def test_a_heic_gives_its_pixels(photos, major_brand):
    image = photos[0].resize((122, 80))
    data = heic(image, quality=95)
    array = decode(data[:8] + major_brand + data[12:])
    assert array.shape == (80, 122, 3)
    assert np.abs(array.astype(int) - np.asarray(image)).mean() < 4


@needs_heif
def test_a_transparent_heic_is_composited_on_white():
    image = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    assert decode(heic(image)).min() >= 250


@needs_heif
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_is_turned_upright_once(photos, orientation):
    """The file's own transformation counts, and not once more the EXIF tag that cameras write beside it."""
    image = photos[0].resize((122, 80))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL.Image.Transpose: upright -> as it is stored
    stored = image.transpose(Image.Transpose(turned[orientation])) if orientation > 1 else image
    array = decode(heic(stored, exif=exif.tobytes(), quality=95))
    assert array.shape == (80, 122, 3)
    assert np.abs(array.astype(int) - np.asarray(image)).mean() < 4


@needs_heif
def test_broken_and_too_large_ones_are_told_by_their_header():
    data = heic(Image.linear_gradient("L").resize((640, 480)).convert("RGB"))
    with pytest.raises(ImageError, match="640 x 480") as too_large:
        open_image(data, max_pixels=640 * 480 - 1)
    assert too_large.value.code == "too_many_pixels"
    for kept in (16, 0.3, 0.9):
        with pytest.raises(ImageError) as broken:
            decode(data[: kept if kept > 1 else int(kept * len(data))])
        assert broken.value.code == "corrupt"


def test_without_the_extra_the_row_names_it(monkeypatch):
    monkeypatch.setattr(decode_pillow, "can_decode_heic", lambda: False)
    with pytest.raises(ImageError, match=r"a HEIC; pip install 'spark-embed\[heic\]'") as caught:
        decode(b"\0\0\0\x24ftypheic\0\0\0\0mif1heicMiHEmiafmeta")
    assert caught.value.code == "not_an_image"


@pytest.mark.parametrize("start", [b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"])
def test_jpeg_xl_is_called_by_its_name(start):
    with pytest.raises(ImageError, match="JPEG XL") as caught:
        decode(start + bytes(90))
    assert caught.value.code == "not_an_image"
