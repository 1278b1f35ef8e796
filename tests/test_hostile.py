"""Pillow's own odd and broken images through a whole run: a row each, little memory, no file takes long."""

import csv
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SLOWEST_S = 10
# A worker of 1.5 GB, less the 0.9 GB that torch and a small model take.
MOST_BYTES = 600_000_000

DECODE_ALL = """
import json, sys, time
from pathlib import Path
from spark_embed.decode import decode
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


@pytest.mark.slow
def test_a_run_gives_each_file_one_row_and_agrees_with_pillow(embed, material, manifest, tmp_path):
    """There is no file on which the two differ; tests/test_decode_broken.py compares the pixels as well."""
    names = [row["file"] for row in manifest]
    images = [(material / "hostile" / name).read_bytes() for name in names]
    os.makedirs(tmp_path / "in")
    pq.write_table(pa.table({"key": names, "jpg": images}), tmp_path / "in/0.parquet")

    metadata, embeddings, errors = embed(tmp_path / "in")

    assert sorted([*embeddings["image_id"], *errors["image_id"]]) == sorted(names)
    good = {row["file"] for row in manifest if row["pillow_stage_reached"] == "ok"}
    assert set(embeddings["image_id"]) == good
    assert set(errors["error"]) == {"corrupt", "too_many_pixels"}
    assert metadata["counts"]["rows"] == len(manifest)
