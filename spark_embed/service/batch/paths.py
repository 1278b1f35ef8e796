"""What a script calls a place: a folder, and a name below it."""

from __future__ import annotations

import os

from spark_embed.errors import ConfigError

Folder = str | os.PathLike[str]


def check_name(name: str, called: str) -> str:
    """Return the first part of a path below a folder, once that is sure to lead nowhere else.

    Args:
        name: the path, joined with '/'.
        called: what an error calls it.

    Raises:
        ConfigError: it could lead elsewhere.
    """
    parts = name.split("/")
    if "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise ConfigError(f"{called} {name!r}: must be a path below the folder, without '.' or '..' in it")
    return parts[0]
