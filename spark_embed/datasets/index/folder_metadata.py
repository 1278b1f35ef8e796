"""Hugging Face's metadata of an image folder: the columns of the images that its rows name.

As `datasets` reads metadata.csv, .jsonl and .parquet: the column file_name (or mask_file_name and the like)
holds paths from the file's own folder, and every row is a row of the data set. Here every image is one, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.datasets.detection.list_files import FILE_NAME, is_file_name
from spark_embed.datasets.lists import read_list
from spark_embed.errors import ConfigError, StorageError, one_line
from spark_embed.schema import IMAGE_ID
from spark_embed.storage import StoredFile, parquet_input

Order = Callable[[str], Any]


@dataclass(frozen=True)
class FolderMetadata:
    """The columns that metadata files add to the images of a folder.

    Attributes:
        columns: of all the files together, a row for each of theirs.
        rows: which of them name an image, by its path below the input folder.
    """

    columns: pa.Table = field(default_factory=lambda: pa.table({}))
    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def with_missing(self, images: Iterator[StoredFile], order: Order) -> Iterator[StoredFile]:
        """Yield the images, and as if they were there those that the metadata names and that are not.

        Args:
            images: in order.
            order: the key that they are in order of.
        """
        named = iter(sorted(self.rows, key=order))
        name = next(named, None)
        for image in images:
            while name is not None and order(name) < order(image.path):
                yield StoredFile(name, 0)
                name = next(named, None)
            if name == image.path:
                name = next(named, None)
            yield image
        while name is not None:
            yield StoredFile(name, 0)
            name = next(named, None)

    def rows_of(self, images: Sequence[StoredFile]) -> list[tuple[StoredFile, int | None]]:
        """Return each image with each row that names it, or once with None."""
        return [(image, row) for image in images for row in self.rows.get(image.path, (None,))]

    def take(self, rows: Sequence[int | None]) -> pa.Table:
        """Return the columns of some rows; null for None."""
        return self.columns.take(pa.array(rows, pa.int64()))

    def version(self, images: Sequence[StoredFile]) -> str:
        """Return what tells the columns of some images from those of other metadata; "" without columns."""
        if not self.columns.num_columns:
            return ""
        rows = self.take([row for _, row in self.rows_of(images)])
        return f"{self.columns.schema}\0{rows.to_pylist()}"


def read_metadata(root: str, files: Sequence[str], quoting: str) -> FolderMetadata:
    """Read the metadata files of an image folder, all of them into memory.

    Args:
        root: the input folder.
        files: paths below it.
        quoting: of the lists among them (--list_quoting).

    Raises:
        ConfigError: columns that cannot be used.
        StorageError: a file cannot be read, or a line of it is no row.
    """
    tables: list[pa.Table] = []
    rows: dict[str, list[int]] = {}
    first = 0
    for file in files:
        table = _read_table(os.path.join(root, file), quoting)
        for column in filter(is_file_name, table.column_names):
            for row, name in enumerate(table[column].to_pylist(), start=first):
                found = rows.setdefault(_below_root(file, str(name or "")), [])
                if not found or found[-1] != row:
                    found.append(row)
        first += len(table)
        tables.append(table)
    try:
        columns = pa.concat_tables(tables, promote_options="default").combine_chunks()
    except pa.ArrowException as exc:
        raise ConfigError(
            f"{', '.join(files[:3])}: a column has not the same type in each: {one_line(exc)}"
        ) from exc
    return FolderMetadata(columns, rows)


def _below_root(file: str, name: str) -> str:
    """Return the path below the input folder of an image that a metadata file names."""
    return os.path.normpath(os.path.join(os.path.dirname(file), name.strip())).replace("\\", "/")


def _read_table(path: str, quoting: str) -> pa.Table:
    if not path.endswith(".parquet"):
        table = pa.Table.from_batches(read_list(path, FILE_NAME, quoting))
    else:
        try:
            table = pq.read_table(parquet_input(path)).replace_schema_metadata(None)
            table.validate(full=True)  # text that is no UTF-8
        except (OSError, pa.ArrowException) as exc:
            raise StorageError(f"{path}: cannot be read as parquet: {one_line(exc, None)}") from exc
    # image_id is the image's path already.
    return table.rename_columns(
        [f"metadata_{name}" if name == IMAGE_ID else name for name in table.column_names]
    )
