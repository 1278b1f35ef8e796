"""Print what CHANGELOG.md says of a version, if a tag names the version of this checkout.

Usage: release_notes.py TAG
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def notes_of(tag: str) -> str:
    """Return the changelog's section of a tag such as v1.2.3.

    Raises:
        SystemExit: the tag is not that of pyproject.toml's version, or the changelog has nothing of it.
    """
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    if tag != f"v{version}":
        raise SystemExit(f"the tag is {tag}, but pyproject.toml says {version}, whose tag is v{version}")
    changelog = (ROOT / "CHANGELOG.md").read_text()
    found = re.search(rf"^## {re.escape(version)}\b.*\n((?:(?!## ).*\n?)*)", changelog, re.MULTILINE)
    if found is None or not found[1].strip():
        raise SystemExit(f"CHANGELOG.md has nothing below '## {version}': call '## Unreleased' so")
    return found[1].strip()


if __name__ == "__main__":
    print(notes_of(sys.argv[1]))
