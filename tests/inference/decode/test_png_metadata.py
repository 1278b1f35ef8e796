"""What a PNG holds beside its pixels changes no pixel, however large or damaged, and takes no memory."""

import time
import zlib

import numpy as np
import pytest
from PIL import Image

from spark_embed.errors import ImageError
from spark_embed.inference.decode import decode, open_image

from support.image_files import encode, noise_image, with_chunk

PLAIN = encode(noise_image(), "PNG")
LARGE = zlib.compress(bytes(3 << 20))  # more than Pillow inflates of text or profile
XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'

CHUNKS = {
    "a large profile": (b"iCCP", b"name\0\0" + LARGE),
    "large text": (b"zTXt", b"name\0\0" + LARGE),
    "large international text": (b"iTXt", b"name\0\1\0\0\0" + LARGE),
    "a profile that is none": (b"iCCP", b"name\0\0junk"),
    "a short gamma": (b"gAMA", b""),
    "a short size": (b"pHYs", b"abc"),
    "a short chromaticity": (b"cHRM", b"abc"),
    "compressed by another method": (b"zTXt", b"name\0\7abc"),
}


def exif_with(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()[6:]


@pytest.mark.parametrize("at_end", [False, True], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize(("name", "data"), CHUNKS.values(), ids=CHUNKS)
def test_chunks_beside_the_pixels_change_none(name, data, at_end):
    image = with_chunk(PLAIN, name, data, at_end=at_end)
    np.testing.assert_array_equal(decode(image), noise_image())


@pytest.mark.parametrize("name", [b"tEXt", b"tIME", b"eXIf", b"bKGD"])
def test_a_wrong_checksum_of_metadata_changes_no_pixel(name):
    np.testing.assert_array_equal(decode(with_chunk(PLAIN, name, b"a\0b", checksum=b"none")), noise_image())


@pytest.mark.parametrize("metadata", [(b"eXIf", exif_with(6)), (b"iTXt", XMP)], ids=["exif", "xmp"])
def test_the_orientation_survives(metadata):
    turned = np.rot90(np.asarray(noise_image()), -1)
    for damaged in (b"gAMA", b""), (b"zTXt", b"name\0\0" + LARGE):
        np.testing.assert_array_equal(decode(with_chunk(with_chunk(PLAIN, *metadata), *damaged)), turned)


def test_transparency_survives():
    image = Image.fromarray(np.array([[[9, 8, 7], [1, 2, 3]]], dtype=np.uint8))
    data = with_chunk(encode(image, "PNG", transparency=(9, 8, 7)), b"gAMA", b"")
    assert decode(data).tolist() == [[[255, 255, 255], [1, 2, 3]]]


def test_the_first_frame_of_an_animation_survives():
    first, second = Image.new("RGB", (32, 20), "red"), Image.new("RGB", (32, 20), "blue")
    data = encode(first, "PNG", save_all=True, append_images=[second], default_image=True)
    np.testing.assert_array_equal(decode(with_chunk(data, b"gAMA", b"")), decode(data))


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"tRNS"])
def test_a_damaged_chunk_of_the_pixels_is_corrupt(name):
    with pytest.raises(ImageError) as caught:
        decode(with_chunk(PLAIN, name, b"abc", checksum=b"none"))
    assert caught.value.code == "corrupt"


def test_many_bombs_of_text_are_passed_unread():
    data, text = PLAIN, b"name\0\0" + zlib.compress(bytes(10 << 20))
    for _ in range(50):
        data = with_chunk(data, b"zTXt", text)
    started = time.thread_time()
    opened = open_image(data)
    np.testing.assert_array_equal(opened.decode(), noise_image())
    assert time.thread_time() - started < 0.5  # 500 MB would take longer to inflate


def test_a_file_of_very_many_chunks_is_given_up():
    data = with_chunk(with_chunk(PLAIN, b"gAMA", b""), b"tIME", b"", checksum=b"none")
    at = PLAIN.index(b"IDAT") - 4
    many = data[:at] + 200_000 * (bytes(4) + b"aaAa" + zlib.crc32(b"aaAa").to_bytes(4, "big")) + data[at:]
    with pytest.raises(ImageError) as caught:
        decode(many)
    assert caught.value.code == "corrupt"


def test_pngs_of_other_people_give_the_pixels_of_the_plain_one(material):
    folder = material / "found" / "23-png-large-metadata"
    if not folder.is_dir():
        pytest.skip("needs the material's found/ folder")
    plain = decode((folder / "plain.png").read_bytes())
    paths = sorted(folder.glob("*.png"))
    assert len(paths) == 10
    for path in paths:
        np.testing.assert_array_equal(decode(path.read_bytes()), plain, err_msg=path.name)
