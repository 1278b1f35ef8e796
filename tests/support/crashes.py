"""Runs of the command that something happens to: separate processes, real signals, and what they left."""

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from spark_embed.output.folder import Output
from spark_embed.output.verify import verify

from support.checkout import REPOSITORY, TESTS
from support.commands import BIN
from support.image_files import encode
from support.vectors import cosines

HOOKS = Path(__file__).parent / "crash_hooks"

PACKAGE_ARCHIVE = "spark_embed.zip"  # as an executor has it in its folder, of --py-files

DEADLINE_S = 200  # for what takes a while: a whole run, say
LOOK_EVERY_S = 0.1  # to look at all processes takes 20 ms of a core
WAVE_ROWS = 60
OPTIONS = {"parity_samples": 1, "batch_size": 8}

SIDE = 64  # of the images, and of the tiny CLIP's input: nothing is resized, so a pixel stays what it is


def write_shards(folder: Path, photos: list[Image.Image], n_shards: int, n_rows: int) -> None:
    """Write shards of small photos whose first pixel says which shard and row they are.

    Row 3 of each has no image, and row 5 none that can be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(n_shards):
        images = [encode(stamped(photos, shard, row), "PNG") for row in range(n_rows)]
        images[3:4], images[5:6] = [None], [b"no image"]
        table = pa.table({"key": [f"{shard}-{row}" for row in range(n_rows)], "png": images})
        pq.write_table(table, folder / shard_name(shard), row_group_size=20)


def shard_name(shard: int) -> str:
    return f"{shard:05d}.parquet"


def stamped(photos: list[Image.Image], shard: int, row: int) -> Image.Image:
    rng = np.random.default_rng((shard, row))
    photo = photos[rng.integers(len(photos))]
    left, top = rng.integers(photo.width - SIDE), rng.integers(photo.height - SIDE)
    image = photo.crop((left, top, left + SIDE, top + SIDE))
    image.putpixel((0, 0), (shard, row // 256, row % 256))
    return image


def await_(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S):
    """Return what the condition gives once that is true; fail after the deadline."""
    deadline = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {deadline_s} s in vain for {what}"
        time.sleep(LOOK_EVERY_S)
    return found


class Run:
    """One start of the command, in a session of its own; its processes have a word in their environment.

    Args:
        log: a new folder for what it says, and for what sitecustomize.py writes.
        argv: the command.
        hold: see sitecustomize.py.
        row_s: seconds by which each image is slower.
        silent_s: seconds without a heartbeat after which the lock counts as lost; None: as ever.
        wave_rows: rows of each wave.
        kind: of model, module:class; None: image embedders.
        elsewhere: the command is spark-submit to a cluster, whose executors get nothing of this environment:
            they are given the hooks. The package comes with what is submitted alone, for the driver too.
    """

    def __init__(
        self,
        log: Path,
        argv: list,
        hold: str | None = None,
        row_s: float = 0.0,
        silent_s: float | None = None,
        wave_rows: int = WAVE_ROWS,
        kind: str | None = None,
        elsewhere: bool = False,
    ):
        self.log = log
        self.elsewhere = elsewhere
        self.token = uuid.uuid4().hex
        log.mkdir(parents=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SPARK_EMBED_", "PYSPARK_"))}
        environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
        environment["PYTHONPATH"] = os.pathsep.join(map(str, (HOOKS, REPOSITORY, TESTS)))
        happening = {"CRASH_LOG": str(log), "CRASH_TOKEN": self.token}
        happening |= {"CRASH_ROW_S": str(row_s), "CRASH_WAVE_ROWS": str(wave_rows)}
        if silent_s is not None:
            happening["CRASH_SILENT_S"] = str(silent_s)
        if kind:
            happening["CRASH_KIND"] = kind
        if hold:
            happening["CRASH_HOLD"] = hold
        environment |= happening
        if elsewhere:
            environment["PYTHONPATH"] = str(HOOKS)
            sent = {"PYTHONPATH": f"{PACKAGE_ARCHIVE}{os.pathsep}{HOOKS}", **happening}
            settings = (f"spark.executorEnv.{name}={value}" for name, value in sent.items())
            program, *rest = argv
            argv = [program, *(word for setting in settings for word in ("--conf", setting)), *rest]
        with open(log / "stderr", "w") as stderr, open(log / "stdout", "w") as stdout:
            self.process = subprocess.Popen(
                [str(word) for word in argv],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """All that it has written to stderr, which spark-submit makes one with its program's stdout."""
        names = ("stdout", "stderr") if self.elsewhere else ("stderr",)
        return "".join((self.log / name).read_text(errors="replace") for name in names)

    @property
    def last_line(self) -> str:
        lines = self.said.strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def printed(self) -> str:
        """All that it has written to stdout."""
        return (self.log / "stdout").read_text(errors="replace")

    def await_line(self, text: str) -> None:
        """Wait until it says something."""
        self.await_(lambda: text in self.said, text)

    def await_hold(self) -> int:
        """Wait until it stops at the call that it is to stop at; return the process."""
        note = self.log / "held"
        self.await_(lambda: note.exists() and note.read_text(), f"{note}")
        return int(note.read_text())

    def go_on(self) -> None:
        """Let it go on from there."""
        (self.log / "held").unlink()

    def await_(self, condition: Callable[[], object], what: str):
        """Wait for something that it does; fail if it ends before."""

        def is_so():
            found = condition()
            assert found or not self.has_ended, f"ended before: {what}\n{self.said[-3000:]}"
            return found

        return await_(is_so, what)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for its end; return the exit code."""
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired as exc:
            raise AssertionError(f"did not end in {deadline_s} s:\n{self.said[-3000:]}") from exc

    def wait_at_most(self, seconds: float) -> None:
        """Give it some time to end."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        """Kill -9 of the driver. Its JVM and workers are left to themselves."""
        self.process.kill()
        self.process.wait()

    def processes(self) -> list[psutil.Process]:
        """Return what of it is alive: the driver, the JVM, the daemon, its workers, executors."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ours = process.environ().get("CRASH_TOKEN") == self.token
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def await_silence(self, deadline_s: float = 20.0) -> None:
        """Wait until none of its processes is left."""
        try:
            await_(lambda: not self.processes(), "the end of all processes", deadline_s)
        except AssertionError as exc:
            left = [one.cmdline() for one in self.processes()]
            raise AssertionError(f"{self.log}: these live on: {left}") from exc

    def end(self) -> None:
        """Kill whatever is left of it."""
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()

    def images(self) -> list[tuple[int, int]]:
        """Return the images that went through the model, as (shard, row); once for each time."""
        lines = [line for path in self.log.glob("*.images") for line in path.read_text().splitlines()]
        return [tuple(map(int, line.split())) for line in lines]

    def workers(self) -> list[int]:
        """Return the processes that have predicted, the latest first."""
        logs = sorted(self.log.glob("*.images"), key=lambda path: -path.stat().st_mtime)
        return [int(path.stem) for path in logs]


def n_again(*runs: Run) -> int:
    """Return how often an image went through the model that had been through it before."""
    images = [image for run in runs for image in run.images()]
    return len(images) - len(set(images))


class Folder:
    """An output folder, as a test looks at it."""

    def __init__(self, root: Path):
        self.root = root
        self.state = root / "_spark_embed"

    def markers(self) -> list[Path]:
        return sorted((self.state / "markers").glob("*.json"))

    def complete(self) -> set[tuple[int, int]]:
        """Return the rows that need never go through the model again, as (shard, row)."""
        parts = []
        for marker in self.markers():
            parts += [(part[0], part[2], part[3]) for part in read_json(marker)["units"]]
        if (ledger := self.state / "files.json").exists():
            for name, (_, ranges) in read_json(ledger)["shards"].items():
                parts += [(name, *found) for found in ranges]
        return {
            (int(Path(name).stem), row)
            for name, first, number in parts
            for row in range(first, first + number)
        }

    def plant_strays(self) -> int:
        """Leave what executors might that outlived their driver; return how many files that are.

        A second copy of rows in the folder of a complete wave, and in the folder of one that never completed.
        """
        n_files = 0
        for marker in self.markers():
            folder = self.state / "waves" / marker.stem
            data = folder / next(iter(read_json(marker)["files"]))
            dead = folder.with_name("00000-deaddead")
            dead.mkdir(exist_ok=True)
            for stray in (folder / "part-00099-stray.snappy.parquet", dead / f"{marker.stem}.parquet"):
                shutil.copy(data, stray)
                n_files += 1
        return n_files

    def vectors(self) -> dict[tuple[str, int], np.ndarray]:
        """Return the published vectors by (shard, shard_row), each of which is there once."""
        table = pq.read_table(self.root / "embeddings.parquet", columns=["shard", "shard_row", "embedding"])
        keys = list(zip(table["shard"].to_pylist(), table["shard_row"].to_pylist(), strict=True))
        assert len(set(keys)) == len(keys)
        vectors = np.array(table["embedding"].to_pylist(), dtype=np.float32)
        return dict(zip(keys, vectors, strict=True))

    def errors(self) -> dict[tuple[str, int], str]:
        """Return the published error codes by (shard, shard_row), each of which is there once."""
        table = pq.read_table(self.root / "errors.parquet", columns=["shard", "shard_row", "error"])
        keys = list(zip(table["shard"].to_pylist(), table["shard_row"].to_pylist(), strict=True))
        assert len(set(keys)) == len(keys)
        return dict(zip(keys, table["error"].to_pylist(), strict=True))

    def assert_same(self, other: "Folder") -> None:
        """It is whole, and its rows, codes and vectors are those of another folder."""
        verify(Output(str(self.root))).check()
        assert self.errors() == other.errors()
        vectors, expected = self.vectors(), other.vectors()
        assert vectors.keys() == expected.keys()
        keys = list(expected)
        worst = cosines(
            np.array([vectors[key] for key in keys]), np.array([expected[key] for key in keys])
        ).min()
        assert worst >= 0.99999

    def assert_tidy(self, *, is_folder: bool = False) -> None:
        """Nothing is there but what a complete state consists of."""
        ledger = read_json(self.state / "files.json")
        for kind in ("embeddings", "errors"):
            place = self.root / f"{kind}.parquet"
            names = [place.name] if place.is_file() else sorted(os.listdir(place))
            assert names == sorted(file["name"] for file in ledger[kind])
        assert set(os.listdir(self.root)) == {
            "embeddings.parquet", "errors.parquet", "metadata.json", "_spark_embed",
        }  # fmt: skip
        files = {str(path.relative_to(self.state)) for path in self.state.rglob("*") if not path.is_dir()}
        files = {name for name in files if not name.startswith("index/")} if is_folder else files
        known = {"run.json", "files.json", "progress.json", "shards.parquet", "lock.json.guard"}
        assert files == known - ({"shards.parquet"} if is_folder else set())
        assert read_json(self.root / "metadata.json")["status"] == "complete"


def read_json(path: Path):
    return json.loads(path.read_text())
