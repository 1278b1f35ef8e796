"""Puts a release and models into S3, each under a hash of its content: what is there is not sent again.

A release is what a cluster needs: wheel, zip, job, conf, bootstrap.sh, constraints. Its manifest.json is
written last, and home/current.json, which names the newest, last of all.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spark_embed.aws.emr.cluster_file import Cluster
from spark_embed.aws.emr.requests import release_folder
from spark_embed.errors import ConfigError, one_line
from spark_embed.storage import (
    existing_folder,
    folder_path,
    read_json,
    upload,
    walk_files,
    write_json,
)

logger = logging.getLogger(__name__)

_HASH_CHARS = 12
_CHUNK_BYTES = 1 << 20
# What is sent as it is; the wheel is made of the package and these two. conf/ is in both.
_FILES = {
    "emr/bootstrap.sh": "bootstrap.sh",
    "constraints.txt": "constraints.txt",
    "jobs/embed.py": "jobs/embed.py",
}
_FOLDERS = ("conf",)
_SOURCES = ("pyproject.toml", "README.md", *_FILES, *_FOLDERS, "spark_embed")


def find_checkout() -> Path:
    """Return the checkout that a release is made of: the working folder, else the one that this is run from.

    Raises:
        ConfigError: neither is one.
    """
    for folder in (Path.cwd(), Path(__file__).parents[3]):
        if all((folder / name).exists() for name in _SOURCES):
            return folder
    raise ConfigError(
        "a release is made of a checkout of spark_embed: run this in one "
        f"({Path.cwd()} lacks {', '.join(name for name in _SOURCES if not (Path.cwd() / name).exists())})"
    )


def version_of(checkout: Path) -> str:
    """Return what the release of a checkout is called: the package's version and a hash of what is in it."""
    sources = [path for name in _SOURCES for path in _files(checkout / name)]
    names = {path.relative_to(checkout).as_posix(): path for path in sources}
    version = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return f"{version}-{_content_hash(names)}"


def deploy_release(cluster: Cluster, checkout: Path, version: str) -> None:
    """Put the release of a checkout into S3, unless it is there.

    Raises:
        ConfigError: the wheel cannot be built.
        StorageError: S3 does not take it.
    """
    home, folder = _path(cluster.home), _path(release_folder(cluster, version))
    if read_json(f"{folder}/manifest.json") is None:
        with tempfile.TemporaryDirectory(prefix="spark_embed-") as work:
            files = _release_files(checkout, _build_wheel(checkout, work))
            upload_files(files, folder)
            sizes = {name: path.stat().st_size for name, path in files.items()}
        write_json(f"{folder}/manifest.json", {"version": version, "files": sizes})
    else:
        logger.info("%s is there already", release_folder(cluster, version))
    if (read_json(f"{home}/current.json") or {}).get("version") != version:
        write_json(f"{home}/current.json", {"version": version})


def deploy_model(cluster: Cluster, model_directory: str, *, send: bool = True) -> str:
    """Put a model's folder into S3, as far as it is not there; returns where it is, or would be.

    Raises:
        ConfigError: there is no such folder on this machine.
        StorageError: S3 does not take it.
    """
    folder = Path(existing_folder(model_directory, "--model_directory"))
    files = {file.path: folder / file.path for file in walk_files(str(folder), in_order=True)}
    if not files:
        raise ConfigError(f"--model_directory {folder}: is empty")
    there = f"{cluster.home}/models/{folder.name}-{_content_hash(files)}"
    if send:
        upload_files(files, _path(there))
    return there


def newest_version(cluster: Cluster) -> str:
    """Return the version that was deployed last.

    Raises:
        ConfigError: none was.
        StorageError: S3 does not say.
    """
    current: Any = read_json(f"{_path(cluster.home)}/current.json")
    if not isinstance(current, dict) or "version" not in current:
        raise ConfigError(
            f"{cluster.home}: nothing is deployed there yet; run 'spark-embed emr deploy' first"
        )
    return str(current["version"])


def check_version(cluster: Cluster, version: str) -> None:
    """Look whether a release is there, all of it.

    Raises:
        ConfigError: it is not.
        StorageError: S3 does not say.
    """
    if read_json(f"{_path(release_folder(cluster, version))}/manifest.json") is None:
        raise ConfigError(f"--release_version {version}: there is no such release in {cluster.home}/releases")


def upload_files(files: Mapping[str, Path], folder: str) -> None:
    """Send files to a folder in S3 that has its content's hash in its name, as far as they are not there.

    A file of the same name and size is the same there, since each appears whole.
    """
    there = {file.path: file.n_bytes for file in walk_files(folder)}
    missing = {name: path for name, path in files.items() if there.get(name) != path.stat().st_size}
    for name, path in missing.items():
        logger.info("sending %s (%d bytes)", name, path.stat().st_size)
        upload(str(path), f"{folder}/{name}")
    logger.info("%s: %d files sent, %d were there", folder, len(missing), len(files) - len(missing))


def _build_wheel(checkout: Path, to: str) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", to, str(checkout)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(Path(to).glob("spark_embed-*.whl"))
    if done.returncode or len(found) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no wheel was made"]
        raise ConfigError(f"the wheel cannot be built ('pip install hatchling'?): {one_line(said[-1])}")
    return found[0]


def _release_files(checkout: Path, wheel: Path) -> dict[str, Path]:
    """Return the files of a release by their names in it; the zip, for --py-files, is the wheel."""
    files = {wheel.name: wheel, "spark_embed.zip": wheel}
    files |= {there: checkout / here for here, there in _FILES.items()}
    for name in _FOLDERS:
        files |= {path.relative_to(checkout).as_posix(): path for path in _files(checkout / name)}
    return files


def _files(path: Path) -> Iterable[Path]:
    if path.is_file():
        return [path]
    found = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sorted(file for file in found if "__pycache__" not in file.parts and not file.name.startswith("."))


def _content_hash(files: Mapping[str, Path]) -> str:
    """Return a hash of names and contents."""
    whole = hashlib.sha256()
    for name in sorted(files):
        part = hashlib.sha256()
        with files[name].open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                part.update(chunk)
        whole.update(f"{name}\0{part.hexdigest()}\n".encode())
    return whole.hexdigest()[:_HASH_CHARS]


def _path(uri: str) -> str:
    return folder_path(uri, "home")
