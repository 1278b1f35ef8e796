"""Full, read-only and vanishing disks: one line that says what to do, and the same command goes on."""

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from support.crashes import Folder, await_

PLENTY_MB = 64

# When the disk is full: while a wave's data is written, while its marker is, while published files are made,
# while they are listed, and while the summary is written.
MOMENTS = [
    ("spark_embed.run.wave_job run_wave waves/ 3", ""),
    ("spark_embed.run.wave_job write_marker Marker 2", ""),  # or another wave's data, whichever is first
    ("spark_embed.output.publish.merge merge_files Merge 1", "/out"),
    ("spark_embed.output.publish.publish write_ledger Ledger 1", "/out"),
    ("spark_embed.run.report write_json metadata.json 1", "/metadata.json"),
]


class Disk:
    """A small disk in memory."""

    def __init__(self, path: Path):
        self.path = path
        self.ballast = path / "ballast"

    def fill(self) -> None:
        """Leave no byte."""
        with open(self.ballast, "wb", buffering=0) as file:
            for _ in range(PLENTY_MB << 8):
                with suppress(OSError):
                    file.write(bytes(1 << 12))
        assert shutil.disk_usage(self.path).free == 0

    def free(self) -> None:
        self.ballast.unlink()

    def mount(self, *options: str) -> bool:
        """Mount it with these options; return whether that worked."""
        command = ["mount", *options, "-t", "tmpfs", "tmpfs", str(self.path)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def unmount(self) -> None:
        """Take it away, whoever uses it."""
        subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    disk.path.mkdir()
    if not shutil.which("mount") or not disk.mount("-o", f"size={PLENTY_MB}m"):
        pytest.skip("mounting a small disk takes rights that this user does not have")
    yield disk
    disk.unmount()


def assert_one_line(run, exit_code: int, text: str) -> None:
    """It ended with this code and a last line that has this text, and nothing looks like a crash."""
    assert run.wait() == exit_code, run.said
    assert text in run.last_line
    assert "Traceback" not in run.said
    assert "\tat " not in run.said


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "moments",
    [MOMENTS[2:3], pytest.param(MOMENTS[:2] + MOMENTS[3:], marks=pytest.mark.crash)],
    ids=["publish", "others"],
)
def test_a_full_disk_is_told_and_with_space_the_same_command_goes_on(
    start, go_on_here, disk, uninterrupted, moments
):
    out = Folder(disk.path / "out")
    for hold, path in moments:
        complete = out.complete()
        run = start(out.root, hold=hold)
        run.await_hold()
        disk.fill()
        run.go_on()
        assert_one_line(run, 4, f"{path}: no space left on the disk; about ")
        assert " more is needed. Free some, then start the same command again" in run.last_line
        assert str(out.root) in run.last_line
        disk.free()
        assert complete <= out.complete()
        assert not complete & set(run.images())
    go_on_here(out)
    out.assert_same(uninterrupted)
    out.assert_tidy()


@pytest.mark.slow
def test_a_read_only_folder_is_told_at_once(start, disk):
    assert disk.mount("-o", "remount,ro")
    run = start(disk.path / "out")
    assert_one_line(
        run, 4, f"--output_dir {disk.path}/out: {disk.path} is not a folder that can be written to"
    )
    assert "found" not in run.said  # before Spark


@pytest.mark.crash
def test_a_disk_that_turns_read_only_is_told(start, disk, uninterrupted):
    out = Folder(disk.path / "out")
    run = start(out.root, row_s=0.02)
    run.await_(lambda: out.markers() and disk.mount("-o", "remount,ro"), "a moment without an open file")
    assert_one_line(run, 4, str(out.root))
    assert disk.mount("-o", "remount,rw")
    complete = out.complete()
    assert complete
    run = start(out.root)
    assert run.wait() == 0, run.said
    assert not complete & set(run.images())
    out.assert_same(uninterrupted)
    out.assert_tidy()


@pytest.mark.crash
@pytest.mark.parametrize("how", ["unmounted", "deleted"])
def test_a_folder_that_vanishes_ends_the_run(start, disk, how):
    out = Folder(disk.path / "out")
    run = start(out.root, row_s=0.02)
    run.await_(out.markers, "a complete wave")
    if how == "unmounted":
        disk.unmount()
    else:
        await_(lambda: not shutil.rmtree(out.root, ignore_errors=True) and not out.root.exists(), "its end")
    assert run.wait(30) in (4, 6), run.said
    assert str(out.root) in run.last_line
    assert "Traceback" not in run.said
    run.await_silence()
    assert not os.path.exists(out.state / "run.json")
