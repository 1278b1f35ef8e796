"""The benchmarks measure what they say: the promised images, and the same vectors from all who compete."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spark_embed.compare.measuring import Sample

from benchmarks import data, loops, scaling
from benchmarks.load import Answers, Figures
from benchmarks.measure import Line, Spread, System, count_vectors, ratios
from benchmarks.processes import Process, cpu_by_kind, watch
from benchmarks.report import describe_machine, markdown, summarize
from benchmarks.service_report import check
from benchmarks.service_report import markdown as service_markdown
from support.checkout import REPOSITORY
from support.vectors import cosines

N_IMAGES = 24
FEED = replace(data.FEED, n_distinct=16, rows_per_shard=8, rows_per_group=4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache with a tiny data set and the model that costs nothing, made as `make bench` makes them."""
    folder = tmp_path_factory.mktemp("cache")
    data.make_shards(FEED, N_IMAGES, folder)
    data.make_model("tiny", folder)
    return folder


@pytest.fixture(scope="module")
def table(cache):
    return pq.ParquetDataset(data.make_shards(FEED, N_IMAGES, cache)).read()


@pytest.fixture(scope="module")
def feed_vectors(cache, table) -> np.ndarray:
    """What the job's feed makes of the images, in float32."""
    from spark_embed.inference.feed import FeedOptions
    from spark_embed.inference.fetch.references import Reference
    from spark_embed.models import Recipe, load_model

    from support.feeds import run_feed

    model, _ = load_model(Recipe(str(data.make_model("tiny", cache)), dtype="float32", device="cpu"))
    references = [Reference(image) for image in table["jpg"].to_pylist()]
    return np.concatenate(
        [chunk.columns["embedding"] for chunk in run_feed(references, model, FeedOptions())]
    )


def run(*arguments) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_images_have_the_promised_size(table):
    import io

    encoded = table["jpg"].to_pylist()
    assert {Image.open(io.BytesIO(image)).size for image in encoded} == {(500, 375)}
    assert np.mean([len(image) for image in encoded]) == pytest.approx(110_000, rel=0.05)
    assert all(90_000 < len(image) < 130_000 for image in encoded)


def test_the_shards_have_the_shape_of_img2dataset(cache, table):
    shards = sorted(data.make_shards(FEED, N_IMAGES, cache).glob("*.parquet"))
    assert table.column_names == ["key", "url", "caption", "width", "height", "jpg"]
    assert [pq.read_metadata(shard).num_row_groups for shard in shards] == [2, 2, 2]
    assert len(set(table["key"].to_pylist())) == N_IMAGES
    assert len(set(table["jpg"].to_pylist())) == 16, "the images repeat after the distinct ones"


def test_the_data_are_made_once(cache):
    files = [path for path in cache.rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    smaller = data.make_shards(FEED, 8, cache)
    data.make_model("tiny", cache)
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert [path.stat().st_nlink for path in smaller.iterdir()] == [3]  # the pool's, and both data sets'


def test_a_number_of_images_that_fills_no_shard_is_refused(cache):
    with pytest.raises(ValueError, match="multiple of 8"):
        data.make_shards(FEED, 12, cache)


@pytest.mark.parametrize("name", loops.LOOPS)
def test_the_loops_and_the_feed_give_the_same_vectors(name, cache, table, feed_vectors):
    embed = loops.LOOPS[name](data.make_model("tiny", cache), "float32")
    vectors = embed(table["jpg"].to_pylist())
    assert cosines(vectors, feed_vectors).min() > 0.9999
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_a_loop_as_a_whole_process_embeds_every_image_once(cache, table, feed_vectors, tmp_path):
    folders = (data.make_shards(FEED, N_IMAGES, cache), tmp_path / "out", data.make_model("tiny", cache))
    done = run("benchmarks.loops", "tuned", *folders, "--dtype", "float32", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 2, "one file per worker"
    assert count_vectors(tmp_path / "out") == N_IMAGES
    written = pq.ParquetDataset(tmp_path / "out").read().sort_by("key")
    assert written["key"].to_pylist() == table["key"].to_pylist()
    assert cosines(np.stack(written["embedding"].to_numpy()), feed_vectors).min() > 0.9999


@pytest.mark.slow
def test_the_feed_runs_alone_on_the_cpu_without_pyspark(cache, tmp_path):
    done = run(
        *("benchmarks.feed_device", "--device", "cpu", "--models", "tiny", "--cache", cache),
        *("--input_dir", data.make_shards(FEED, N_IMAGES, cache), "--seconds", "0.2"),
        *("--json", tmp_path / "figures.json"),
    )
    assert done.returncode == 0, done.stderr
    (figures,) = json.loads((tmp_path / "figures.json").read_text())
    assert figures["device"] == "cpu"
    assert figures["min_cosine"] > 0.999
    assert min(figures["feed"], figures["device_limit"], figures["cpu_limit"]) > 0
    assert "| tiny |" in done.stdout


def test_two_sizes_give_the_steady_rate_and_the_fixed_seconds():
    line = Line((1000, 3000), (12.0, 32.0))  # 2 s fixed, 100 images/s
    assert line.images_per_s == pytest.approx(100)
    assert line.fixed_s == pytest.approx(2)


def test_ratios_compare_within_a_round():
    slow_then_fast = [Line((0, 100), (1.0, 3.0)), Line((0, 100), (1.0, 2.0))]
    twice_as_fast = [Line((0, 100), (1.0, 2.0)), Line((0, 100), (1.0, 1.5))]
    lines = {"a": twice_as_fast, "b": slow_then_fast}
    assert ratios(lines, "a", "b") == Spread(2.0, 2.0, 2.0)


def test_a_table_names_the_machine_and_the_spread():
    lines = {"tuned": [Line((0, 100), (1.0, 2.0)), Line((0, 100), (1.0, 3.0))]}
    systems = [System("tuned", lambda n_images, output: [], "float32")]
    result = summarize("feed", lines, systems, ["tuned", "absent"]) | {"machine": describe_machine()}
    text = markdown(json.loads(json.dumps(result)))
    assert "| tuned | float32 | 75 (50-100) | 1.00 (1.00-1.00) | 1.0 (1.0-1.0) |" in text
    assert "torch " in text
    assert "cores of" in text


def test_scaling_compares_with_one_executor_and_with_what_the_models_alone_could_do():
    text = scaling.markdown({1: 40.0, 2: 76.0})
    assert "| 2 | 76.0 | 0.950 | 0.760 |" in text
    assert "bar [40.0, 76.0]\n    line [40.0, 80.0]" in text


def test_the_processes_of_a_command_are_watched_to_its_end():
    child = "import time\nwhile time.process_time() < 0.5: pass"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    processes = watch([sys.executable, "-c", program])
    assert [process.kind for process in processes] == ["driver", "driver"]
    assert cpu_by_kind(processes)["driver"] >= 0.3
    assert all(process.peak_bytes > 5 << 20 for process in processes)


def test_growth_counts_from_a_share_of_the_work():
    sizes = [(0.0, 10), (1.0, 100), (5.0, 103), (10.0, 101)]
    worker = Process(1, "worker", [Sample(cpu_s, cpu_s, size, size) for cpu_s, size in sizes])
    assert worker.growth(after=0.1) == pytest.approx(0.03)


def test_a_command_that_fails_is_not_measured():
    with pytest.raises(subprocess.CalledProcessError):
        watch([sys.executable, "-c", "raise SystemExit(3)"])


def test_load_is_summed_up_in_its_window():
    """Six requests, one each second: one is refused, one never answered, one answered after the end."""
    lines = [
        f"{10**18 + second * 10**9},{status},{int(took_s * 1e9)},1,1,,,,{second},POST,u,"
        for second, (status, took_s) in enumerate(
            [(200, 0.5), (200, 0.5), (503, 0.005), (200, 0.4), (0, 3.0), (200, 1.5)]
        )
    ]
    figures = Figures.of(Answers.of(lines), 1.0, 6.0)
    assert figures.offered_per_s == 1.0
    assert figures.answered_per_s == 2 / 5, (
        "the last one came after the load, the first one before its window"
    )
    assert (figures.p50_s, figures.p99_s) == (0.5, 1.5), "an answer that came late counts in the latencies"
    assert (figures.n_refused, figures.refused_p99_s, figures.n_failed) == (1, 0.005, 1)
    assert Figures.of(Answers.of([]), 0.0, 1.0).p99_s is None


def test_a_comparison_of_services_says_which_promise_is_missed():
    case = {"answered_per_s": 60.0, "p50_s": 0.02, "p99_s": 0.5, "refused_p99_s": 0.03, "n_refused": 9}
    case |= {
        "memory_bytes": [100, 101],
        "offered_per_s": 60.0,
        "n_failed": 0,
        "generator_share": 0.01,
        "cpu_s": 0.03,
    }
    cases = {"1 clients": case, "64 clients": case, "80% load": case, "120% load": case}
    slower = {name: {**case, "answered_per_s": 50.0} for name in cases}
    bare = {"serial": 60.0, "ahead": 64.0, "forward_s": 0.2, "call_s": 0.018}
    bare |= {"serial_cpu_s": 0.03, "ahead_cpu_s": 0.03}
    one = {"load_before": 0.1, "bare": bare}
    one["services"] = {"spark_embed": cases, "peer": slower}
    result = {"rounds": [one], "peers": ["peer==1"], "batch_size": 16, "seconds": 1}
    result["machine"] = describe_machine()
    kept = {words: (found.median, kept) for words, found, _, kept in check(result)}
    assert [round(value, 4) for value, _ in kept.values()] == [0.9375, 1.2, 2.5, 2.0, 1.0, 30.0, 1.01]
    assert [words for words, (_, kept) in kept.items() if not kept] == [
        "refusals at 120 % load, p99 in ms: at most"
    ]
    assert "| peer | 64 | 50.0 | 0.78 | 30.0 | 20.0 | 500.0 | 9 | 0 | 1.0 |" in service_markdown(result)
