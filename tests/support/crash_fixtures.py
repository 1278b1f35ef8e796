"""Fixtures of the tests that end runs: shards, the output of a run left alone, the command in processes."""

from pathlib import Path

import pytest

from support.commands import BIN
from support.crashes import OPTIONS, Folder, Run, write_shards

N_SHARDS, N_ROWS = 12, 50


@pytest.fixture(scope="session")
def stamped(tmp_path_factory, photos) -> Path:
    """Twelve shards of small photos that say which they are; `crashes.write_shards`."""
    folder = tmp_path_factory.mktemp("stamped") / "in"
    write_shards(folder, photos, N_SHARDS, N_ROWS)
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


@pytest.fixture
def go_on_here(spark, command_here, embedded_rows, stamped):
    """Give the command of `start` to this process, which has a session; it does nothing again."""

    def go_on_here(out: Folder) -> str:
        """Give it the output folder; returns what it says to stderr."""
        n_complete = len(out.complete())
        embedded_rows.clear()
        options = (f"--{name}={value}" for name, value in OPTIONS.items())
        code, said = command_here("--input_dir", stamped, "--output_dir", out.root, *options)
        assert code == 0, said
        assert sum(embedded_rows) == N_SHARDS * N_ROWS - n_complete
        return said

    return go_on_here
