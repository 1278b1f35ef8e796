"""A decoder that crashes or hangs: its image is an error row, the others have pixels, no process stays."""

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spark_embed.errors import ImageError
from spark_embed.inference.decode import decode
from spark_embed.inference.decode.isolated import IsolatedDecoder, keep_decodable
from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.fetch.references import Reference

from support.checkout import REPOSITORY
from support.commands import BIN
from support.fakes import MeanColour
from support.feeds import run_feed
from support.image_files import encode, with_segment

CRASHING = REPOSITORY / "tests/support/crashing_decoder"
PATIENCE_S = 20


def ordering(order: str) -> bytes:
    """A good JPEG that tells the decoder of tests/crashing_decoder what to do, and when: "open abort"."""
    return with_segment(encode(Image.new("RGB", (8, 6), "red")), 0xFE, f"decoder: {order} ".encode())


def children() -> list[psutil.Process]:
    return [c for c in psutil.Process().children() if "spark_embed.inference.decode.child" in c.cmdline()]


def n_living_children() -> int:
    """How many there are while some end: one that has just crashed may be gone, or not reaped yet."""
    n_living = 0
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # ZombieProcess is one
            n_living += "spark_embed.inference.decode.child" in process.cmdline()
    return n_living


@pytest.fixture
def decoder():
    """One with a time limit of a second; no child of it may be left at the end."""
    made = IsolatedDecoder(limit_s=1.0)
    yield made
    made.close()
    assert children() == []


@pytest.fixture
def crashing(monkeypatch):
    """Children that are started from now on decode with tests/crashing_decoder."""
    monkeypatch.syspath_prepend(str(CRASHING))


def outcome(decoder, data) -> str:
    """The shape, or the error's code and detail."""
    try:
        return str(decoder.open_image(data).decode().shape)
    except ImageError as error:
        return f"{error.code}: {error.detail}"


def test_it_gives_the_same_pixels_sizes_and_errors(decoder, photo_bytes):
    good = [*photo_bytes[:3], encode(Image.new("RGBA", (30, 20)), "PNG"), memoryview(photo_bytes[0])]
    for data in good:
        opened = decoder.open_image(data)
        array = opened.decode()
        assert array.shape == (opened.height, opened.width, 3)
        assert opened.n_pixels * 3 < opened.peak_bytes
        assert array.flags.c_contiguous
        assert array.flags.writeable
        np.testing.assert_array_equal(array, decode(data))
    for data in (b"", b"<html>", photo_bytes[0][:5000], encode(Image.new("RGB", (9, 9)), "PNG")[:-30]):
        with pytest.raises(ImageError) as expected:
            decode(data)
        assert outcome(decoder, data) == f"{expected.value.code}: {expected.value.detail}"
    assert len(children()) == 1


def test_options_reach_the_child(photo_bytes):
    truncated = photo_bytes[0][: len(photo_bytes[0]) // 2]
    decoder = IsolatedDecoder(max_pixels=1_000_000, allow_truncated=True)
    try:
        np.testing.assert_array_equal(
            decoder.open_image(truncated).decode(), decode(truncated, allow_truncated=True)
        )
        assert outcome(decoder, encode(Image.new("RGB", (1001, 1000)), "PNG")).startswith("too_many_pixels")
    finally:
        decoder.close()


ENDINGS = {
    "abort": "corrupt: the decoder crashed (SIGABRT)",
    "SIGSEGV": "corrupt: the decoder crashed (SIGSEGV)",
    "exit": "corrupt: the decoder crashed (exit status 3)",
    "SIGKILL": "out_of_memory: the decoder was killed (SIGKILL), most likely for its memory",
    "hang": "timeout: decoding took longer than 1 s",
    "print": "(6, 8, 3)",
}


@pytest.mark.parametrize("moment", ["open", "decode"])
@pytest.mark.parametrize("order", ENDINGS)
def test_what_ends_the_child_is_that_images_error_and_the_next_one_decodes(decoder, crashing, order, moment):
    assert outcome(decoder, ordering(f"{moment} {order}")) == ENDINGS[order]
    assert outcome(decoder, ordering("no order")) == "(6, 8, 3)"


@pytest.mark.parametrize("order", ["bug", "SIGTERM"])
def test_a_bug_or_an_end_from_outside_is_no_images_fault(decoder, crashing, order):
    with pytest.raises(RuntimeError, match=r"the decoding child ended: (exit status 1|SIGTERM)"):
        decoder.open_image(ordering(f"open {order}"))


def test_a_child_that_cannot_start_is_no_images_fault(decoder, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(CRASHING)])
    monkeypatch.chdir(CRASHING)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="does not start: exit status 1"):
        decoder.open_image(b"any")


def test_the_images_that_preflight_may_decode_are_found_out(decoder, crashing):
    images = [ordering("decode abort"), ordering("no order"), b"<html>", ordering("open abort")]
    assert list(keep_decodable(zip(images, range(4), strict=True), decoder)) == [(images[1], 1)]
    assert children() == []


def test_closing_ends_a_child_that_is_stuck(crashing):
    decoder = IsolatedDecoder()
    stuck = threading.Thread(target=outcome, args=(decoder, ordering("decode hang")), daemon=True)
    stuck.start()
    while not any(child.cpu_times().user > 0.5 for child in children()):
        stuck.join(0.1)
        assert stuck.is_alive()
    decoder.close()
    stuck.join(PATIENCE_S)
    assert not stuck.is_alive()
    assert children() == []


def test_a_feed_decodes_in_one_child_per_thread_and_leaves_none(crashing, monkeypatch):
    bad = {7: "decode abort", 20: "open SIGSEGV", 21: "decode hang"}
    references = [Reference(ordering(bad.get(number, "no order"))) for number in range(40)]
    at_once = []
    model = MeanColour(during_predict=lambda batch: at_once.append(n_living_children()))
    options = FeedOptions(batch_size=10, n_threads=2, isolated=True, decode_timeout_s=1)
    codes = [
        error and error.code
        for chunk in run_feed(references, model, options)
        for error in chunk.errors["embedding"]
    ]
    assert {row: code for row, code in enumerate(codes) if code} == {
        7: "corrupt",
        20: "corrupt",
        21: "timeout",
    }
    assert max(at_once) <= 2
    assert children() == []

    feed = run_feed(references, model, options)
    next(feed)
    feed.close()
    assert children() == []


PARENT = """
import sys
from spark_embed.inference.decode.isolated import IsolatedDecoder
decoder = IsolatedDecoder(limit_s=2)
opened = decoder.open_image(bytes.fromhex(sys.argv[1]))
(child,) = decoder._children
print(child._process.pid, flush=True)
opened.decode()
sys.stdin.read()
"""


@pytest.mark.parametrize("order", ["no order", "decode hang"])
def test_a_child_ends_with_its_worker_even_if_that_is_killed(order):
    path = os.pathsep.join([str(CRASHING), str(REPOSITORY)])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, ordering(order).hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.is_running()
    parent.kill()
    parent.communicate()
    child.wait(PATIENCE_S)


def test_the_child_imports_no_torch_and_no_spark():
    program = (
        "import sys, spark_embed.inference.decode.child;"
        "print(sorted({'torch', 'transformers', 'pyspark', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_run_survives_images_that_crash_the_worker_and_leaves_no_process_and_no_folder_behind(
    tmp_path, tiny_clip, photo_bytes
):
    """The first attempt at a task dies with its worker; the second decodes in children."""
    images = [ordering("decode abort"), *photo_bytes[:5], ordering("open SIGSEGV"), *photo_bytes[:5]]
    rows = [{"key": str(number), "jpg": data} for number, data in enumerate(images)]
    for name in ("in", "temp"):
        (tmp_path / name).mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in/0.parquet")
    flags = {"input_dir": "in", "output_dir": "out", "model_directory": tiny_clip, "num_workers": 1}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CRASHING), str(REPOSITORY)])}
    process = psutil.Popen(
        [BIN / "spark-embed", *(f"--{name}={value}" for name, value in flags.items())],
        cwd=tmp_path,
        env={**environment, "TMPDIR": str(tmp_path / "temp")},
        stderr=subprocess.PIPE,
        text=True,
    )
    family = {}
    for line in process.stderr:
        if "parity:" in line:
            family = {child.pid: child for child in process.children(recursive=True)}
    assert process.wait() == 0
    process.stderr.close()
    errors = pd.read_parquet(tmp_path / "out/errors.parquet").sort_values("shard_row")
    assert errors["shard_row"].tolist() == [0, 6]
    assert errors["error"].tolist() == ["corrupt", "corrupt"]
    assert errors["error_detail"].tolist() == [
        "the decoder crashed (SIGABRT)",
        "the decoder crashed (SIGSEGV)",
    ]
    embeddings = pd.read_parquet(tmp_path / "out/embeddings.parquet")
    assert sorted(embeddings["shard_row"]) == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    metadata = json.loads((tmp_path / "out/metadata.json").read_text())
    assert metadata["counts"]["rows"] == metadata["n_rows_again"] == 12
    assert not [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if "spark_embed.inference.decode.child" in (process.info["cmdline"] or [])
        and process.info["cwd"] == str(tmp_path)
    ]
    assert len(family) >= 3  # the JVM, the early daemon, a worker
    _, alive = psutil.wait_procs(family.values(), timeout=60)
    assert alive == []
    assert list((tmp_path / "temp").glob("spark_embed-*")) == []
