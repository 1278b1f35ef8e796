"""A run may die between any two things that its driver does to the disk: from there the next one goes on.

The disk is copied in front of each, and a run over every copy ends in the same data set.
"""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from spark_embed.config import Config
from spark_embed.pipeline import run
from spark_embed.run import waves
from spark_embed.storage import local

from support.crashes import Folder
from support.moments import Moments

N_OF_A_KIND = 99  # moments that differ only in numbers: all of them


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


@pytest.mark.crash
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("changes", [parquet_shards, image_files])
def test_a_run_goes_on_from_every_state_of_the_disk(
    spark, stamped, tiny_clip, tmp_path, monkeypatch, changes
):
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
    watch = (moments, out, copies, N_OF_A_KIND)
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
