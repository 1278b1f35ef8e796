"""Print what pip has to install for some extras: an image's layer of it stays while only the code changes.

Usage: python requirements.py [--without PACKAGE] [EXTRA ...]     (in the folder of pyproject.toml)
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path


def requirements(project: Path, extras: Collection[str], without: Collection[str]) -> Iterator[str]:
    """Give the project's dependencies and those of its extras, but for some packages.

    Raises:
        SystemExit: the project has no such extra.
    """
    said = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    optional = said["optional-dependencies"]
    if unknown := set(extras) - set(optional):
        raise SystemExit(f"no extra {', '.join(sorted(unknown))}: there are {', '.join(optional)}")
    for line in [*said["dependencies"], *(line for extra in extras for line in optional[extra])]:
        if re.split(r"[^\w.-]", line)[0] not in without:
            yield line


def main() -> None:
    """Print them, a line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--without", action="append", default=[])
    parser.add_argument("extras", nargs="*")
    asked = parser.parse_args()
    sys.stdout.writelines(
        f"{line}\n" for line in requirements(Path("pyproject.toml"), asked.extras, asked.without)
    )


if __name__ == "__main__":
    main()
