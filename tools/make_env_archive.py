"""An archive of an environment for spark-submit --archives, with the package from its wheel.

Usage: python tools/make_env_archive.py ENVIRONMENT WHEEL ARCHIVE

As in every venv, bin/python is a link to the Python that made it, which the nodes must have at the same path.
Programs in bin/ begin with the old place's path: on executors only bin/python is run.
"""

import argparse
import json
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

_GZIP_LEVEL = 1  # libraries are most of it: more takes minutes and gains little


def write_archive(environment: Path, wheel: Path, archive: Path) -> None:
    """Write the archive; it appears under its name when it is whole.

    Raises:
        SystemExit: it is no environment, or the code of another package is elsewhere.
    """
    environment = environment.resolve()
    packages = next(environment.glob("lib/python3*/site-packages"), None)
    if packages is None or not (environment / "pyvenv.cfg").exists():
        raise SystemExit(f"{environment}: no environment as python -m venv makes them")
    name, version, *_ = wheel.name.split("-")
    refuse_editable(packages, except_for=name)
    own = {packages / name, packages / f"{name}-{version}.dist-info", *packages.glob(f"*editable*{name}*")}
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f"{archive.name}.part")
    with tarfile.open(part, "w:gz", compresslevel=_GZIP_LEVEL) as tar:
        for path in files_below(environment, own):
            tar.add(path, path.relative_to(environment), recursive=False)
        add_wheel(tar, wheel, packages.relative_to(environment))
    part.rename(archive)


def refuse_editable(packages: Path, except_for: str) -> None:
    """Refuse an environment with packages whose code is elsewhere.

    Raises:
        SystemExit: naming one.
    """
    for path in packages.glob("*.dist-info/direct_url.json"):
        name = path.parent.name.split("-")[0]
        if name != except_for and json.loads(path.read_text()).get("dir_info", {}).get("editable"):
            raise SystemExit(f"{name} is installed as editable: its code would not be in the archive")


def files_below(folder: Path, left_out: Iterable[Path]) -> Iterable[Path]:
    """Return all files and links below a folder, without some folders and files."""
    left_out = set(left_out)
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(name for name in folders if here / name not in left_out)
        links = [name for name in folders if (here / name).is_symlink()]
        yield from (here / name for name in sorted([*names, *links]) if here / name not in left_out)


def add_wheel(tar: tarfile.TarFile, wheel: Path, packages: Path) -> None:
    """Add what a wheel of pure Python holds."""
    with zipfile.ZipFile(wheel) as files:
        for member in files.infolist():
            info = tarfile.TarInfo(str(packages / member.filename))
            info.size, info.mode, info.mtime = member.file_size, 0o644, int(wheel.stat().st_mtime)
            with files.open(member) as file:
                tar.addfile(info, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("environment", "wheel", "archive"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    write_archive(given.environment, given.wheel, given.archive)
    python = (given.environment / "bin" / "python").resolve()
    n_bytes = given.archive.stat().st_size
    sys.stdout.write(f"{given.archive}: {n_bytes / 1e6:,.0f} MB; its Python is {python}, on the nodes, too\n")


if __name__ == "__main__":
    main()
