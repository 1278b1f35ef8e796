"""A run may die between any two things that its driver does to the disk: from there the next one goes on.

The disk is copied in front of each, and a run over every copy ends in the same data set.
"""

import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from crashes import Folder

from spark_embed.config import Config
from spark_embed.pipeline import run
from spark_embed.run import waves
from spark_embed.storage import local

# Others write these, at times of their own.
NOT_COPIED = shutil.ignore_patterns("lock.json*", "progress.json*")
MANY = 20  # --kills from which on moments of one kind are all tried, not two of each


class Moments:
    """Stands in for a module that changes the disk; copies a folder before some of its functions are called.

    Args:
        module: the real one.
        names: of the functions.
        made: gets what was about to happen, for each copy.
        root: the folder.
        copies: where to; the n-th of `made` is in front of copy n.
        n_of_a_kind: copies of moments that differ only in numbers.
    """

    def __init__(self, module, names, made: list[str], root: Path, copies: Path, n_of_a_kind: int):
        self._module, self._names, self._made = module, names, made
        self._root, self._copies, self._n_of_a_kind = root, copies, n_of_a_kind

    def __getattr__(self, name: str):
        function = getattr(self._module, name)
        if name not in self._names:
            return function

        def watched(path, *others, **options):
            place = str(Path(path).relative_to(self._root))
            # What is half-written is deleted without a trace.
            if not re.search("lock|progress", place) and (name == "replace" or not place.endswith(".tmp")):
                self._copy(f"{name} {place}")
            return function(path, *others, **options)

        return watched

    def _copy(self, moment: str) -> None:
        kind = re.sub(r"[0-9a-f]{8}|\d+", "", moment)
        if sum(re.sub(r"[0-9a-f]{8}|\d+", "", made) == kind for made in self._made) < self._n_of_a_kind:
            shutil.copytree(self._root, self._copies / str(len(self._made)), ignore=NOT_COPIED)
            self._made.append(moment)


def parquet_shards(stamped: Path, folder: Path):
    """Make five shards; then one is gone, one replaced, and two are new."""
    shards = sorted(stamped.iterdir())
    for path in shards[:5]:
        shutil.copy2(path, folder)
    yield
    (folder / shards[0].name).unlink()
    shutil.copy(shards[8], folder / shards[1].name)
    for path in shards[5:7]:
        shutil.copy2(path, folder)
    yield


def image_files(stamped: Path, folder: Path):
    """Make a folder of images; then some are gone, some replaced, and some are new."""
    images = [
        data for path in sorted(stamped.iterdir())[:3] for data in pq.read_table(path)["png"].to_pylist()
    ]
    for number, data in enumerate(images[:90]):
        (folder / f"{number}.png").write_bytes(data or b"")
    yield
    for number in range(10):
        (folder / f"{number}.png").unlink()
    for number in range(10, 40):
        (folder / f"{number}.png").write_bytes(images[number + 100] or b"")
    for number, data in enumerate(images[90:110], start=90):
        (folder / f"{number}.png").write_bytes(data or b"")
    yield


@pytest.mark.slow
@pytest.mark.parametrize("changes", [parquet_shards, image_files])
def test_a_run_goes_on_from_every_state_of_the_disk(
    spark, stamped, tiny_clip, tmp_path, monkeypatch, pytestconfig, changes
):
    every = pytestconfig.getoption("kills") >= MANY
    if changes is image_files and not every:
        pytest.skip("takes its time: make test-crash")
    folder, out, copies = tmp_path / "in", tmp_path / "out", tmp_path / "copies"
    folder.mkdir()
    steps = changes(stamped, folder)

    def embed(out: Path, **options):
        config = {"input_dir": str(folder), "output_dir": str(out), "model_directory": str(tiny_clip)}
        run(spark, Config(**config, parity_samples=0, batch_size=8, **options))

    next(steps)
    monkeypatch.setattr(waves._Loop, "_wave_rows", lambda loop: 60)
    embed(out, max_image_bytes="8KB")
    assert "too_many_bytes" in Folder(out).errors().values()  # and will not be next time
    next(steps)
    embed(tmp_path / "expected")
    expected = Folder(tmp_path / "expected")

    moments: list[str] = []
    watch = (moments, out, copies, 99 if every else 2)
    with monkeypatch.context() as patch:
        patch.setattr(waves, "_WAVES_AT_ONCE", 1)
        patch.setattr(local, "os", Moments(local.os, ("replace", "rename", "unlink"), *watch))
        patch.setattr(local, "shutil", Moments(local.shutil, ("rmtree",), *watch))
        embed(out, prune=True, retry_errors=True)
    Folder(out).assert_same(expected)
    assert len(moments) >= 15
    for number in range(len(moments)):
        left = Folder(copies / str(number))
        embed(left.root, prune=True, retry_errors=True)
        left.assert_same(expected)
        left.assert_tidy(is_folder=changes is image_files)
