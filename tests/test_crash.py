"""Kill -9, full and vanishing disks, Ctrl-C: the same command goes on, and nothing is done or there twice."""

import random
from pathlib import Path

import pytest
from crashes import BIN, Folder, Run, write_shards

from spark_embed.config import Config
from spark_embed.pipeline import run

N_SHARDS, N_ROWS = 12, 50
OPTIONS = {"parity_samples": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def images(tmp_path_factory, photos) -> Path:
    folder = tmp_path_factory.mktemp("images") / "in"
    write_shards(folder, photos, N_SHARDS, N_ROWS)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, spark, images, tiny_clip) -> Folder:
    """The output of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "out"
    run(
        spark,
        Config(input_dir=str(images), output_dir=str(folder), model_directory=str(tiny_clip), **OPTIONS),
    )
    return Folder(folder)


@pytest.fixture
def start(images, tiny_clip, tmp_path):
    """Start the command once more, on tmp_path/out unless told; all that is left of it ends with the test."""
    runs = []

    def start(*options, out: Path = tmp_path / "out", program=(BIN / "spark-embed",), **happening) -> Run:
        paths = ["--input_dir", images, "--output_dir", out, "--model_directory", tiny_clip]
        argv = [*program, *paths, *(f"--{name}={value}" for name, value in OPTIONS.items()), *options]
        runs.append(Run(tmp_path / f"run-{len(runs)}", argv, **happening))
        return runs[-1]

    yield start
    for one in runs:
        one.end()


@pytest.fixture
def out(tmp_path) -> Folder:
    return Folder(tmp_path / "out")


IN_A_MARKER = "spark_embed.storage _sync markers/ 2"
IN_PUBLISH = "spark_embed.publish _move_files errors.parquet 1"
AT_RANDOM = ["start", "found", "parity", "images 60", "images 180", "images 360", "publish"]


def await_moment(run: Run, out: Folder, moment: str) -> None:
    """Wait until a run is there, or has ended."""
    word, _, number = moment.partition(" ")
    is_there = {
        "start": lambda: True,
        "found": lambda: "found" in run.said,
        "parity": lambda: "parity" in run.said,
        "images": lambda: len(run.images()) >= int(number),
        "publish": (out.state / "publish").exists,
    }[word]
    run.await_(lambda: run.has_ended or is_there(), moment)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_after_kills_at_any_moment_nothing_is_missing_or_there_twice_or_done_again(
    start, tmp_path, uninterrupted, pytestconfig
):
    n_kills = pytestconfig.getoption("kills")
    chance = random.Random(n_kills)
    moments = [IN_PUBLISH, *(chance.choice(AT_RANDOM) for _ in range(n_kills - 2)), IN_A_MARKER]
    runs, outs = [], [Folder(tmp_path / "out-0")]
    n_strays = 0
    while True:
        out, complete = outs[-1], outs[-1].complete()
        hold = moments[-1] if moments and "spark_embed" in moments[-1] else None
        one = start("--output_file_bytes", 4000, out=out.root, hold=hold, row_s=0.01)
        runs.append((one, complete))
        if moments and hold:
            one.await_hold()
        elif moments:
            await_moment(one, out, moments[-1])
            one.wait_at_most(chance.uniform(0, 1))
        if one.has_ended or not moments:
            assert one.wait() == 0, one.said
            out.assert_same(uninterrupted)
            out.assert_tidy()
            if not moments:
                break
            outs.append(Folder(tmp_path / f"out-{len(outs)}"))
            continue
        one.kill()
        moments.pop()
        n_strays += out.plant_strays()
    assert n_strays
    for one, complete in runs:
        one.await_silence()
        images = one.images()
        assert len(set(images)) == len(images)
        assert not complete & set(images)
