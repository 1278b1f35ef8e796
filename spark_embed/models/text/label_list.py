"""--labels, a list or a file of them -> the labels. Driver only: workers find them in their recipe."""

from __future__ import annotations

import os

from spark_embed.errors import ConfigError
from spark_embed.storage import is_s3, read_text


def read_label_list(value: str) -> tuple[str, ...]:
    """Return the labels that an option names.

    Args:
        value: labels with commas between, or a file with one on each line: what ends in .txt, lies in S3, or
            is a file here.

    Raises:
        ConfigError: there is no such file, no label, or one twice.
        StorageError: the store does not give the file.
    """
    if is_s3(value) or value.endswith(".txt") or os.path.isfile(os.path.expanduser(value)):
        parts = _read_lines(value)
    else:
        parts = value.split(",")
    labels = tuple(part.strip() for part in parts if part.strip())
    if not labels:
        raise ConfigError(f"--labels {value!r}: names no label")
    if twice := [label for label in dict.fromkeys(labels) if labels.count(label) > 1]:
        raise ConfigError(f"--labels: {twice[0]!r} is there twice, and would share its score; leave one out")
    return labels


def _read_lines(path: str) -> list[str]:
    try:
        text = read_text(path if is_s3(path) else os.path.expanduser(path))
    except UnicodeDecodeError as exc:
        raise ConfigError(f"--labels {path}: is no text in UTF-8: {exc.reason}") from exc
    if text is None:
        raise ConfigError(f"--labels {path}: there is no such file; it holds one label on each line")
    return text.removeprefix("\ufeff").splitlines()
