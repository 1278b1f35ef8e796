"""Which of the lists that a folder holds name images, and why the others do not; opens only their heads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.datasets.detection.first_rows import names_files
from spark_embed.datasets.detection.not_used import NotUsed, kind_of_file
from spark_embed.datasets.image_types import is_text
from spark_embed.datasets.lists import column_names
from spark_embed.errors import one_line
from spark_embed.storage import StoredFile, parquet_input, shown_path

FILE_NAME = "file_name"
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Of tables that belong to an image folder: METADATA_FILENAMES in Hugging Face's folder_based_builder.py."""

_SHOWN_CHARS = 80


@dataclass
class ListFiles:
    """The lists of a folder.

    Attributes:
        of_urls: those with the column of urls.
        broken: (file, reason) of those whose first lines cannot be read.
        others: (file, kind) of those that can be read and lack the column.
    """

    of_urls: list[StoredFile] = field(default_factory=list)
    broken: list[tuple[StoredFile, str]] = field(default_factory=list)
    others: list[tuple[StoredFile, str]] = field(default_factory=list)

    @property
    def to_read(self) -> list[StoredFile]:
        """Those of urls. Where there are some, what cannot be read is taken for one: a shard that is bad."""
        return [*self.of_urls, *(file for file, _ in self.broken)] if self.of_urls else []

    def not_used(self) -> NotUsed:
        """Return the others, and what cannot be read unless it is `to_read`, each kind with its reason."""
        not_used = NotUsed()
        for file, kind in self.others:
            not_used.add(kind, shown_path(file.path))
        for file, reason in () if self.of_urls else self.broken:
            not_used.add(
                f"{kind_of_file(file.path)} that cannot be read as a list ({reason})", shown_path(file.path)
            )
        return not_used


def find_lists(
    root: str, files: Sequence[StoredFile], url_column: str, flag: str = "--url_column"
) -> ListFiles:
    """Look into the lists below `root`; `flag` names the column that they must have.

    Raises:
        StorageError: the store does not give one.
    """
    found = ListFiles()
    for file in files:
        try:
            names = column_names(os.path.join(root, file.path), url_column)
        except ValueError as exc:
            found.broken.append((file, one_line(exc, _SHOWN_CHARS)))
            continue
        if url_column in names:
            found.of_urls.append(file)
        elif names:
            has = one_line(", ".join(names), _SHOWN_CHARS)
            kind = f"{kind_of_file(file.path)} without a column {url_column!r} ({flag}; it has {has})"
            found.others.append((file, kind))
        else:
            found.others.append((file, f"empty {kind_of_file(file.path)}"))
    return found


def is_metadata(path: str, url_column: str) -> bool:
    """Say whether a list or parquet file is Hugging Face's metadata of the images beside and below it.

    Raises:
        StorageError: the store does not give it.
    """
    if os.path.basename(path) not in METADATA_NAMES or url_column == FILE_NAME:
        return False
    try:
        if path.endswith(".parquet"):
            schema = pq.read_schema(parquet_input(path))
            texts = [column.name for column in schema if is_text(column.type)]
            return any(map(is_file_name, texts)) and not any(map(pa.types.is_binary, schema.types))
        names = column_names(path, FILE_NAME)
    except (OSError, ValueError):  # pyarrow's, too: it is reported where it is read as a shard or a list
        return False
    return any(map(is_file_name, names)) and not (url_column in names and names_files(path, url_column))


def is_file_name(column: str) -> bool:
    """Say whether a column of metadata names images: file_name, or the like of mask_file_name."""
    return column == FILE_NAME or column.endswith(f"_{FILE_NAME}")
