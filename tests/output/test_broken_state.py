"""State that is damaged or somebody else's: the run stops, names it, says what helps, and writes nothing."""

import shutil
from pathlib import Path

import pytest

from spark_embed.config import Config
from spark_embed.output.lock.owner import make_record
from spark_embed.pipeline import run
from spark_embed.run import publisher, waves

from support.crashes import OPTIONS, Folder

DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "no text": lambda data: b"\xff\xfe" + data,
    "zeros": lambda data: bytes(len(data)),
    "foreign": lambda data: b'{"name": "somebody else", "version": 3}',
    "a list": lambda data: b"[]",
}

CURES = {
    "run.json": "choose another --output_dir, or delete the folder",
    "files.json": "put a copy back, or start anew with --overwrite",
    "marker": "delete it, and its wave is done again",
    "lock.json": "delete it if no run is at work there",
    "shards.parquet": "delete it: footers are then read anew",
    "progress.json": "delete it; the next run writes it anew",
    "metadata.json": "delete it, and it is written anew",
}


@pytest.fixture
def embed_stamped(command_here):
    """Give the command to this process; returns the exit code and the last line."""

    def embed(input_dir: Path, output_dir: Path):
        paths = ["--input_dir", input_dir, "--output_dir", output_dir]
        code, said = command_here(*paths, *(f"--{name}={value}" for name, value in OPTIONS.items()))
        return code, said.rpartition("\n")[2]

    return embed


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, spark, stamped, tiny_clip):
    """An output of five shards, and of two complete waves over seven more that were interrupted then."""
    folder = tmp_path_factory.mktemp("interrupted")
    config = {"model_directory": str(tiny_clip), "output_dir": str(folder / "out"), **OPTIONS}
    config = Config(input_dir=str(shutil.copytree(stamped, folder / "in")), **config)
    later = sorted((folder / "in").iterdir())[5:]
    for path in later:
        path.rename(folder / path.name)
    run(spark, config)
    for path in later:
        (folder / path.name).rename(path)
    n_waves = 0
    add = publisher.Publisher.add

    def add_two(self, marker):
        nonlocal n_waves
        add(self, marker)
        n_waves += 1
        if n_waves == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publisher.Publisher, "add", add_two)
        patch.setattr(waves._Loop, "_wave_rows", lambda loop: 60)
        with pytest.raises(KeyboardInterrupt):
            run(spark, config)
    return folder


def path_of(out: Folder, name: str) -> Path:
    """Return where a file of the state is; write one where none stands after an ordinary end."""
    if name == "marker":
        return out.markers()[0]
    if name == "metadata.json":
        return out.root / name
    if name == "lock.json":
        (out.state / name).write_text(make_record("another").model_dump_json())
    return out.state / name


def content(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".guard"
    }


@pytest.mark.parametrize("name", CURES)
def test_what_is_broken_or_foreign_is_said_and_left_and_the_cure_works(
    embed_stamped, interrupted, uninterrupted, tmp_path, name
):
    out = Folder(shutil.copytree(interrupted / "out", tmp_path / "out"))
    path = path_of(out, name)
    whole = path.read_bytes()
    for damage in DAMAGES.values():
        path.write_bytes(damage(whole))
        before = content(out.root)
        code, line = embed_stamped(interrupted / "in", out.root)
        assert code == 6
        assert f"{path}: " in line
        assert line.endswith(CURES[name])
        assert content(out.root) == before
    if CURES[name].startswith("delete it"):
        path.unlink()
    else:
        path.write_bytes(whole)
    code, line = embed_stamped(interrupted / "in", out.root)
    assert code == 0, line
    out.assert_same(uninterrupted)
    out.assert_tidy()
