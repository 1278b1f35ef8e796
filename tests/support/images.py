"""Images of deploy/images, built and run without an engine: by buildah, on a base of Debian's packages.

The base has the name of the real one and a Python of the same minor version, so that the Dockerfile is built
as it is, though no registry is asked. Everything is in one folder, which ends with the `with` block.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from support.checkout import REPOSITORY

DOCKERFILE = REPOSITORY / "deploy" / "images" / "Dockerfile"
BASE = "docker.io/library/python:3.11-slim-bookworm"
TOOLS = ("buildah", "mmdebstrap")
FREE_BYTES = 30 << 30  # vfs copies: an environment under way, the image's, and the layer that is made of it

_OWN_AUTHORITIES = Path("/usr/local/share/ca-certificates")


class Container:
    """A file system of an image, in which programs run with the image's user, environment and folder.

    Attributes:
        config: what the image says of itself, as OCI has it: Entrypoint, User, Env, ...
        root: its file system, from outside.
    """

    def __init__(self, images: "Images", name: str) -> None:
        self._images = images
        self._name = images.buildah("from", "--pull=never", name).strip()
        self.config = json.loads(images.buildah("inspect", "--type", "image", name))["OCIv1"]["config"]
        self.root = Path(images.buildah("mount", self._name).strip())

    def command(
        self,
        *argv: object,
        environ: Mapping[str, str] | None = None,
        volumes: Mapping[Path, str] | None = None,
        user: str | None = None,
    ) -> list[str]:
        """Return the command, of this machine, that runs a program inside."""
        options = [f"--env={name}={value}" for name, value in (environ or {}).items()]
        options += [f"--volume={path}:{there}" for path, there in (volumes or {}).items()]
        options += [f"--user={user}"] if user else []
        # Java asks for the address of its host's name, which an engine would put into /etc/hosts.
        run = ["run", "--isolation", "chroot", "--hostname", "localhost", *options, self._name, "--"]
        return [*self._images.buildah_command, *run, *map(str, argv)]

    def run(self, *argv: object, **options) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end."""
        return subprocess.run(
            self.command(*argv, **options),
            env=self._images.environ,
            capture_output=True,
            text=True,
            check=False,
        )

    def as_started(self, *argv: object, **options) -> subprocess.CompletedProcess[str]:
        """Run what `docker run IMAGE argv` does."""
        return self.run(*self.config["Entrypoint"], *argv, **options)

    @contextmanager
    def started(self, *argv: object, **options) -> Iterator[subprocess.Popen[str]]:
        """Start what `docker run IMAGE argv` does, and kill it at the end of the block."""
        process = subprocess.Popen(
            self.command(*self.config["Entrypoint"], *argv, **options),
            env=self._images.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):  # it ended with one before it
                        child.kill()
                process.kill()
            process.wait(60)

    def remove(self) -> None:
        """Give its space back; once is enough."""
        if self.root.exists():
            self._images.buildah("rm", self._name)


class Images:
    """Builds images in a folder.

    Attributes:
        buildah_command: the words that each command of buildah's begins with.
        environ: the environment of all of them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.buildah_command = ["buildah", "--storage-driver", "vfs"]
        self.buildah_command += ["--root", str(folder / "storage"), "--runroot", str(folder / "run")]
        (folder / "tmp").mkdir()
        self.environ = {**os.environ, "TMPDIR": str(folder / "tmp")}

    def buildah(self, *argv: str) -> str:
        """Give a command to buildah, and return what it prints; its log is the test's."""
        done = subprocess.run(
            [*self.buildah_command, *argv],
            cwd=REPOSITORY,
            env=self.environ,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{argv}\n{done.stdout[-5000:]}"
        return done.stdout

    def make_base(self) -> None:
        """Make the base of Debian's packages; it trusts whom this machine trusts."""
        archive = self._folder / "base.tar"
        trust = [
            f"copy-in {_OWN_AUTHORITIES} {_OWN_AUTHORITIES.parent}",
            'chroot "$1" update-ca-certificates',
        ]
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3,python3-venv,ca-certificates"]
            + [f"--customize-hook={hook}" for hook in trust]
            + ["bookworm", str(archive)],
            check=True,
        )
        empty = self.buildah("from", "scratch").strip()
        self.buildah("add", "--quiet", empty, str(archive), "/")
        self.buildah("commit", "--quiet", "--rm", empty, BASE)
        archive.unlink()

    def build(self, target: str | None, options: Sequence[str] = ()) -> str:
        """Build a target of the Dockerfile, or what it builds without one, and return its name."""
        name = f"localhost/spark-embed-{target or 'default'}"
        chosen = ["--target", target] if target else []
        # Not a layer for each line: vfs would copy everything for each. OCI's own format has no health check.
        how = [
            "--format",
            "docker",
            "--isolation",
            "chroot",
            "--layers=false",
            "--pull=never",
            *self._pip_settings(),
            *options,
        ]
        self.buildah("bud", *how, "--file", str(DOCKERFILE), *chosen, "--tag", name, ".")
        return name

    def size(self, name: str) -> str:
        """Return how large an image's files are, for people."""
        (told,) = json.loads(self.buildah("images", "--json", name))
        return told["size"]

    def remove(self, name: str) -> None:
        """Give an image's space back."""
        self.buildah("rmi", "--force", name)

    def _pip_settings(self) -> list[str]:
        """Hand this machine's settings of pip to the build alone: no image has them."""
        settings = self._folder / "pip.conf"
        listed = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=True).stdout
        lines = [line.partition(".")[2] for line in listed.splitlines() if line.startswith("global.")]
        settings.write_text("[global]\n" + "".join(f"{line.replace(chr(39), '')}\n" for line in lines))
        settings.chmod(0o600)
        return ["--secret", f"id=pip,src={settings}"]


@contextmanager
def images() -> Iterator[Images]:
    """Make a place for images, and remove it with the block."""
    folder = Path(tempfile.mkdtemp(prefix="spark_embed_images_"))
    try:
        made = Images(folder)
        made.make_base()
        yield made
    finally:
        shutil.rmtree(folder)
