"""Every kind of image gives its RGB pixels: the same as Pillow's, upright, on white, uint8."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms, ImageOps

from spark_embed.inference.decode import PillowImage, PlainJpeg, decode, open_image

from support.image_files import PNG_RGB, encode, png, tiff_12_bit, with_segment

LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "BMP": {}, "JPEG2000": {}}

# Where the stored first row and first column lie in the upright picture: EXIF 2.32, section 4.6.4.
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def pixels(data) -> np.ndarray:
    """Decode, and check what holds for every image."""
    array = decode(data)
    assert array.dtype == np.uint8
    assert array.ndim == 3
    assert array.shape[2] == 3
    assert array.flags.c_contiguous
    assert array.flags.writeable
    return array


def by_pillow(data) -> np.ndarray:
    """What Pillow alone makes of a file without transparency."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def on_white(rgba: np.ndarray) -> np.ndarray:
    """Composite in floating point."""
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """How a camera that notes `orientation` would have stored this picture."""
    first_row, first_column = ORIENTATIONS[orientation]
    array = upright.swapaxes(0, 1) if first_row in ("left", "right") else upright
    array = array[::-1] if first_row in ("bottom", "right") else array
    return array[:, ::-1] if first_column in ("bottom", "right") else array


def exif_with(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.fixture(scope="module")
def photo(photos) -> Image.Image:
    return photos[0].resize((61, 40))


def gradient(dtype, n_levels: int) -> np.ndarray:
    """One row that runs through the levels of a wide sample."""
    return np.linspace(0, n_levels - 1, 64).astype(dtype).reshape(1, -1)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}, {"subsampling": 0}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_jpegs_take_the_fast_path_to_exactly_pillows_pixels(photos, mode, options):
    for image in photos:
        data = encode(image.convert(mode), **options)
        assert isinstance(open_image(data), PlainJpeg)
        np.testing.assert_array_equal(pixels(data), by_pillow(data))


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (17, 33), (640, 427)], ids=str)
def test_any_chroma_subsampling_gives_pillows_pixels(photos, subsampling, size):
    array = np.ascontiguousarray(photos[0].resize(size))
    data = simplejpeg.encode_jpeg(array, colorsubsampling=subsampling)
    np.testing.assert_array_equal(pixels(data), by_pillow(data))


def test_third_party_photos_give_pillows_pixels(material):
    for path in sorted(material.glob("photos/*/*.jpg"))[::10]:
        data = path.read_bytes()
        np.testing.assert_array_equal(pixels(data), by_pillow(data), err_msg=path.name)


@pytest.mark.parametrize("image_format", LOSSLESS)
def test_lossless_formats_give_the_pixels_that_went_in(photo, image_format):
    np.testing.assert_array_equal(pixels(encode(photo, image_format, **LOSSLESS[image_format])), photo)


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_any_buffer_will_do(photo, buffer, image_format):
    data = encode(photo, image_format)
    np.testing.assert_array_equal(pixels(buffer(data)), pixels(data))


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (6000, 2), (2, 6000), (60_000, 2)], ids=str)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "TIFF", "BMP"])
def test_extreme_shapes(size, image_format):
    data = encode(Image.new("RGB", size, "red"), image_format)
    array = pixels(data)
    assert array.shape == (size[1], size[0], 3)
    assert np.abs(array.astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("colour", [(0, 0, 0, 0), (255, 0, 0, 0), (10, 200, 30, 40), (0, 0, 0, 255)], ids=str)
def test_cmyk_is_read_as_adobe_stores_it_inverted(colour):
    cyan, magenta, yellow, black = (1 - value / 255 for value in colour)
    data = encode(Image.new("CMYK", (16, 16), colour), quality=100)
    assert isinstance(open_image(data), PillowImage)
    expected = [255 * cyan * black, 255 * magenta * black, 255 * yellow * black]
    assert np.abs(pixels(data) - expected).max() <= 3


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_bilevel_and_palette_become_rgb(photo, mode):
    image = photo.convert(mode)
    np.testing.assert_array_equal(pixels(encode(image, "PNG")), image.convert("RGB"))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_composited_on_white(photo, mode, image_format):
    image = photo.convert(mode)
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 61).astype(np.uint8), (40, 1))))
    lossless = {"lossless": True} if image_format == "WEBP" else {}
    expected = on_white(np.asarray(image.convert("RGBA")))
    assert np.abs(pixels(encode(image, image_format, **lossless)) - expected).max() <= 1


@pytest.mark.parametrize("alpha", [b"\x00\xff\xff", b"\xff\x80\x00"], ids=["one colour", "half"])
@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_a_palette_with_transparency_is_composited_on_white(alpha, image_format):
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette([200, 0, 0, 0, 100, 0, 0, 0, 50])
    transparency = alpha if image_format == "PNG" else alpha.index(0)
    rgba = np.asarray([[[200, 0, 0, 255], [0, 100, 0, 255], [0, 0, 50, 255]]])
    rgba[0, :, 3] = list(alpha) if image_format == "PNG" else [0 if a == 0 else 255 for a in alpha]
    array = pixels(encode(image, image_format, transparency=transparency))
    assert np.abs(array - on_white(rgba)).max() <= 1


def test_a_transparent_colour_of_an_rgb_png_becomes_white():
    image = Image.fromarray(np.array([[[9, 8, 7], [1, 2, 3]]], dtype=np.uint8))
    assert pixels(encode(image, "PNG", transparency=(9, 8, 7))).tolist() == [[[255, 255, 255], [1, 2, 3]]]


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_the_high_byte(dtype, image_format):
    samples = gradient(dtype, 65536)
    array = pixels(encode(Image.fromarray(samples), image_format))
    np.testing.assert_array_equal(array, np.repeat((samples >> 8)[..., None], 3, axis=2))


def test_16_bit_rgb_keeps_the_high_byte():
    data = png(2, 1, 16, PNG_RGB, [bytes.fromhex("12ff 3400 56aa ff01 00ff 8000")])
    assert pixels(data).tolist() == [[[0x12, 0x34, 0x56], [0xFF, 0x00, 0x80]]]


def test_12_bit_grey_keeps_its_high_8_bits():
    assert pixels(tiff_12_bit([0x000, 0x12F, 0x800, 0xFFF]))[0, :, 0].tolist() == [0x00, 0x12, 0x80, 0xFF]


@pytest.mark.parametrize(
    ("samples", "grey"),
    [
        pytest.param(gradient("<i4", 65536), gradient("<i4", 65536) >> 8, id="32-bit integers, 16 used"),
        pytest.param(gradient("<i4", 256), gradient("<i4", 256), id="32-bit integers, 8 used"),
        pytest.param(np.array([[-5, 70_000]], "<i4"), [[0, 255]], id="32-bit integers, out of range"),
        pytest.param(np.array([[0, 0.5, 1]], "<f4"), [[0, 127, 255]], id="fractions"),
        pytest.param(np.array([[-1, 99.5, 1e30]], "<f4"), [[0, 99, 255]], id="floats as grey levels"),
        pytest.param(np.array([[np.nan, np.inf, -np.inf]], "<f4"), [[0, 255, 0]], id="no numbers"),
    ],
)
def test_wide_tiffs_become_8_bit_grey(samples, grey):
    array = pixels(encode(Image.fromarray(samples), "TIFF"))
    np.testing.assert_array_equal(array, np.repeat(np.asarray(grey)[..., None], 3, axis=2))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),  # Pillow hands this one to libtiff
    ],
    ids=str,
)
def test_lossless_formats_are_turned_upright_once(photo, orientation, image_format, options):
    turned = Image.fromarray(np.ascontiguousarray(stored(np.asarray(photo), orientation)))
    data = encode(turned, image_format, exif=exif_with(orientation), **options)
    np.testing.assert_array_equal(pixels(data), photo)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_jpegs_are_turned_upright_once(photo, orientation, mode):
    turned = Image.fromarray(np.ascontiguousarray(stored(np.asarray(photo), orientation))).convert(mode)
    data = encode(turned, exif=exif_with(orientation), quality=95)
    assert isinstance(open_image(data), PlainJpeg if mode == "RGB" else PillowImage)
    np.testing.assert_array_equal(pixels(data), by_pillow(data))
    assert np.abs(pixels(data).astype(int) - np.asarray(photo.convert(mode).convert("RGB"))).mean() < 5


XMP = (
    b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
)


@pytest.mark.parametrize("n_segments_before", [0, 3])
@pytest.mark.parametrize("payload", [exif_with(6).tobytes(), XMP], ids=["exif", "xmp"])
def test_the_orientation_of_a_jpeg_is_found_where_pillow_finds_it(photo, payload, n_segments_before):
    data = with_segment(encode(photo), 0xE1, payload)
    for _ in range(n_segments_before):  # such as a thumbnail or a large profile: 64 KB each
        data = with_segment(data, 0xED, bytes(65_000))
    assert pixels(data).shape == (61, 40, 3)
    np.testing.assert_array_equal(pixels(data), by_pillow(data))


@pytest.mark.parametrize(
    "exif",
    [b"", b"garbage", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"II*\0" + bytes(9)],
    ids=str,
)
def test_broken_exif_leaves_the_pixels_usable(photo, exif):
    data = with_segment(encode(photo), 0xE1, b"Exif\0\0" + exif)
    np.testing.assert_array_equal(pixels(data), pixels(encode(photo)))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_colour_profile_changes_no_pixel(photo, image_format):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    with_profile = encode(photo, image_format, icc_profile=profile)
    assert profile in with_profile or image_format == "PNG"
    np.testing.assert_array_equal(pixels(with_profile), pixels(encode(photo, image_format)))


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"])
def test_the_first_frame_counts(image_format):
    first, *others = (Image.new("RGB", (32, 20), colour) for colour in ("red", "lime", "blue"))
    array = pixels(encode(first, image_format, save_all=True, append_images=others))
    assert array.shape == (20, 32, 3)
    assert np.abs(array.astype(int) - [255, 0, 0]).max() <= 5
