"""Fixtures of the tests that end runs: shards, the output of a run left alone, the command in processes."""

from pathlib import Path

import pytest

from support.commands import BIN
from support.crashes import OPTIONS, Folder, Run, write_shards


@pytest.fixture(scope="session")
def stamped(tmp_path_factory, photos) -> Path:
    """Twelve shards of small photos that say which they are; `crashes.write_shards`."""
    folder = tmp_path_factory.mktemp("stamped") / "in"
    write_shards(folder, photos, n_shards=12, n_rows=50)
    return folder


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory, spark, stamped, tiny_clip):
    """The output of a run over the stamped shards that nothing happens to."""
    from spark_embed.config import Config
    from spark_embed.pipeline import run

    folder = tmp_path_factory.mktemp("uninterrupted") / "out"
    config = {"input_dir": str(stamped), "output_dir": str(folder), "model_directory": str(tiny_clip)}
    run(spark, Config(**config, **OPTIONS))
    return Folder(folder)


@pytest.fixture
def start(stamped, tiny_clip, tmp_path):
    """Start the command in processes of its own, with the stamped shards; they end with the test."""
    runs = []

    def start(out: Path, *options, program=(BIN / "spark-embed",), **happening) -> Run:
        """Give it an output folder and more options; `happening` is for `crashes.Run`."""
        paths = ["--input_dir", stamped, "--output_dir", out, "--model_directory", tiny_clip]
        argv = [*program, *paths, *(f"--{name}={value}" for name, value in OPTIONS.items()), *options]
        runs.append(Run(tmp_path / f"run-{len(runs)}", argv, **happening))
        return runs[-1]

    yield start
    for run in runs:
        run.end()
