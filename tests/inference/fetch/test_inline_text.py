"""Images written out as text where a uri could stand: data: urls and base64."""

import base64
from urllib.parse import quote_from_bytes

import pytest

from spark_embed.errors import ImageError
from spark_embed.inference.fetch.inline_text import is_inline_text
from spark_embed.inference.fetch.references import FetchPolicy, Reference, make_fetch, url_of

from support.image_files import encode

DATA = bytes(range(256))
TEXT = base64.b64encode(DATA).decode()


def fetched(uri: str, **policy) -> bytes:
    """What is fetched, wherever the table lies."""
    for base in ("/nowhere", "s3a://nowhere/in"):
        reference = Reference(uri=uri, base=base)
        assert url_of(reference, ("s3a://nowhere",)) is None
        data = make_fetch(FetchPolicy(**policy))(reference)
    return data


@pytest.mark.parametrize(
    "uri",
    [
        f"data:image/jpeg;base64,{TEXT}",
        f"DATA:image/jpeg;charset=x;BASE64,{TEXT.rstrip('=')}",
        f"data:;base64,{base64.urlsafe_b64encode(DATA).decode()}",
        f"data:;base64,{quote_from_bytes(TEXT.encode(), safe='')}",
        f"data:;base64,{TEXT[:76]}\r\n{TEXT[76:]}\n",
        f"data:image/bmp,{quote_from_bytes(DATA)}",
    ],
)
def test_a_data_url_is_its_bytes(uri):
    assert fetched(uri) == DATA


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000"])
def test_base64_of_an_image_is_the_image(photos, kind):
    data = encode(photos[0].resize((32, 32)), kind)
    for text in (base64.b64encode(data).decode(), base64.encodebytes(data).decode()):
        assert fetched(text) == data


@pytest.mark.parametrize(
    "uri", ["/9j/x.jpg", "/9j/4AAQ", "Qk" + "x" * 100 + ".png", "iVBORw0KGgo/a b.png", "data"]
)
def test_a_path_stays_a_path(uri):
    assert not is_inline_text(uri)


@pytest.mark.parametrize("uri", ["data:image/png;base64", "data:;base64,A"])
def test_a_data_url_that_is_broken_is_an_error_of_its_row(uri):
    with pytest.raises(ImageError) as caught:
        fetched(uri)
    assert caught.value.code == "corrupt"


def test_what_is_too_large_is_not_passed_on():
    with pytest.raises(ImageError) as caught:
        fetched(f"data:;base64,{TEXT}", max_bytes=255)
    assert caught.value.code == "too_many_bytes"
