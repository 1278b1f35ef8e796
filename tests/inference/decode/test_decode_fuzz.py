"""Random bytes, and images of which bytes are changed: pixels or an ImageError, never a surprise."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from spark_embed.errors import ImageError
from spark_embed.inference.decode import decode

from support.image_files import FORMATS, encode, noise_image


def gives_pixels_or_image_error(data: bytes, allow_truncated: bool = False) -> None:
    try:
        array = decode(data, max_pixels=1_000_000, allow_truncated=allow_truncated)
    except ImageError:
        return
    assert array.dtype == np.uint8
    assert array.ndim == 3
    assert array.shape[2] == 3


# The same examples on every run; they are few, so that the suite stays fast.
bounded = settings(max_examples=200, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@bounded
@given(st.binary(max_size=300))
def test_random_bytes_never_surprise(data):
    gives_pixels_or_image_error(data)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it skips
@pytest.mark.parametrize("image_format", FORMATS)
def test_changed_bytes_never_surprise(image_format):
    exif = Image.Exif()
    exif[0x0112] = 6
    metadata = {} if image_format in ("GIF", "BMP", "JPEG2000") else {"exif": exif}
    original = encode(noise_image(9, 7), image_format, **metadata)
    position = st.integers(0, len(original) - 1)
    header = st.integers(0, min(120, len(original) - 1))

    @bounded
    @given(
        changes=st.lists(st.tuples(header | position, st.integers(0, 255)), min_size=1, max_size=8),
        cut=st.none() | position,
        inserted=st.tuples(position, st.binary(max_size=20)),
        allow_truncated=st.booleans(),
    )
    def check(changes, cut, inserted, allow_truncated):
        data = bytearray(original)
        for index, value in changes:
            data[index] = value
        data[inserted[0] : inserted[0]] = inserted[1]
        gives_pixels_or_image_error(bytes(data[:cut]), allow_truncated)

    check()
