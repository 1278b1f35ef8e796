"""Pillow's own odd and broken images: Pillow's pixels or an error, and no file takes long."""

import csv
import io
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image, ImageOps

from spark_embed.errors import ImageError
from spark_embed.inference.decode import decode

SLOWEST_S = 10
# A worker of 1.5 GB, less the 0.9 GB that torch and a small model take.
MOST_BYTES = 600_000_000

DECODE_ALL = """
import json, sys, time
from pathlib import Path
from spark_embed.inference.decode import decode
from spark_embed.errors import ImageError
seconds = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    data, started = path.read_bytes(), time.perf_counter()
    try:
        decode(data)
    except ImageError:
        pass
    seconds[path.name] = time.perf_counter() - started
status = Path("/proc/self/status").read_text()  # getrusage would count the parent's memory before exec
print(json.dumps([max(seconds.values()), 1024 * int(status.partition("VmHWM:")[2].split()[0])]))
"""


@pytest.fixture(scope="module")
def manifest(material) -> list[dict]:
    """What Pillow says of each file."""
    with open(material / "hostile" / "manifest.csv") as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_process_decodes_them_all_within_its_time_and_memory(material):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DECODE_ALL, str(material / "hostile")],
        capture_output=True,
        text=True,
        check=True,
    )
    slowest_s, peak_bytes = json.loads(done.stdout)
    assert slowest_s < SLOWEST_S
    assert peak_bytes < MOST_BYTES


# Every file of the folder is in a format that is read here, and the policy refuses none that Pillow
# decodes. Of these two PNGs only the text is broken, which Pillow gives the picture up for.
SOUND_PIXELS = {"images__png_decompression_dos.png", "images__unknown_compression_method.png"}

# These are refused for their size before Pillow
# could find another reason.
TOO_MANY_PIXELS = {
    "images__decompression_bomb.gif",
    "images__l2rgb_read.bmp",
    "images__bmp__b__badwidth.bmp",
    "images__bmp__b__reallybig.bmp",
}


def by_pillow(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


@pytest.mark.filterwarnings("ignore")
def test_pillows_own_hostile_files_give_what_pillow_gives(material, manifest):
    decoded, codes, seconds = set(), {}, {}
    for row in manifest:
        data = (material / "hostile" / row["file"]).read_bytes()
        started = time.perf_counter()
        try:
            array = decode(data)
        except ImageError as error:
            codes[row["file"]] = error.code
        else:
            decoded.add(row["file"])
            # Pillow clips wide samples at 255 (see test_decode), and has no pixels of those that it gives up.
            if row["mode"] and not row["mode"].startswith(("I", "F")):
                np.testing.assert_array_equal(array, by_pillow(data), err_msg=row["file"])
        seconds[row["file"]] = time.perf_counter() - started
    assert len(manifest) > 600
    assert decoded - SOUND_PIXELS == {row["file"] for row in manifest if row["pillow_stage_reached"] == "ok"}
    assert decoded > SOUND_PIXELS
    assert {name for name, code in codes.items() if code == "too_many_pixels"} == TOO_MANY_PIXELS
    assert set(codes.values()) == {"corrupt", "too_many_pixels"}  # all begin as an image does
    assert max(seconds.values()) < SLOWEST_S
