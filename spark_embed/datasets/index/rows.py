"""What the makers of an index share: the task of each, and rows of references as Arrow; knows no layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql.pandas.types import to_arrow_type

from spark_embed.datasets.delimited import STANDARD
from spark_embed.datasets.detection.detect import FILES, LISTS
from spark_embed.errors import ConfigError
from spark_embed.schema import IMAGE, INDEX_COLUMNS, INDEX_ROW, INDEX_SHARD
from spark_embed.spark.types import IMAGE_TYPE
from spark_embed.storage import StoredFile, shown_path

REFERENCE_TYPE = pa.struct(
    [
        (field.name, to_arrow_type(field.dataType))
        for field in IMAGE_TYPE
        if field.name not in ("bytes", "row")
    ]
)
"""A reference in an index: neither inline nor in a parquet file."""

ROWS_PER_BATCH = 10_000

# Spark cuts tasks between row groups; a thousand images are seconds of work, not minutes.
_ROWS_PER_GROUP = 1000
TABLE_ROWS_PER_GROUP = 250_000

Place = dict[str, str | bytes | int]
"""Where one image is: some fields of `REFERENCE_TYPE`."""


@dataclass(frozen=True)
class IndexTask:
    """What one file of an index is made from.

    Attributes:
        layout: its name (`spark_embed.datasets.detection.detect.DESCRIPTIONS`).
        root: the input folder.
        file: the tar, list, or img2dataset parquet of a folder, below it.
        sidecar: the img2dataset parquet of a tar.
        url_column: the column that a list must have, with the urls.
        has_urls: it has; else the rows have no image.
        quoting: of a list (--list_quoting).
        max_rows: where to stop.
        unpacked: where a compressed tar is unpacked to, so that single images can be read.
        columns: of a table, those that are read; none of other layouts.
    """

    layout: str
    root: str
    file: StoredFile
    sidecar: StoredFile | None = None
    url_column: str = "url"
    quoting: str = STANDARD
    max_rows: int | None = None
    unpacked: str = ""
    has_urls: bool = True
    columns: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The file's absolute path."""
        return os.path.join(self.root, self.file.path)

    @property
    def name(self) -> str:
        """What the rows call their shard."""
        return shown_path(os.path.splitext(self.file.path)[0] if self.layout == FILES else self.file.path)

    @property
    def version(self) -> str:
        """Of the content of all that the index file is made from."""
        parts = [file.version for file in (self.file, self.sidecar) if file]
        if (self.layout == LISTS or self.columns) and self.quoting != STANDARD:
            parts.append(f"quoting-{self.quoting}")  # other rows
        return "+".join(parts)


@dataclass(frozen=True)
class Rows:
    """Some rows of an index.

    Attributes:
        image_bytes: of their images, 0 where unknown.
        group_rows: of a row group.
    """

    table: pa.Table
    image_bytes: int
    group_rows: int = _ROWS_PER_GROUP


def make_rows(own: pa.Table, shard: str, first: int, places: Sequence[Place | None]) -> Rows:
    """Put our columns beside the data set's own.

    Args:
        own: the data set's columns, one row for each place.
        shard: the rows' shard.
        first: the number of the first row in it.
        places: where the images are; None for a row without one.
    """
    if taken := [name for name in own.column_names if name in INDEX_COLUMNS]:
        raise ConfigError(f"{shard}: has a column {taken[0]!r}, which the index needs for itself; rename it")
    n_rows = len(places)
    ours = pa.table(
        {
            INDEX_SHARD: pa.array([shard] * n_rows, pa.string()),
            INDEX_ROW: pa.array(range(first, first + n_rows), pa.int64()),
            IMAGE: pa.array([place or {} for place in places], REFERENCE_TYPE),
        }
    )
    for name in own.column_names:
        ours = ours.append_column(own.schema.field(name), own[name])
    return Rows(ours.replace_schema_metadata(None), sum(_length(place) for place in places))


def _length(place: Place | None) -> int:
    length = place.get("length", 0) if place else 0
    return length if isinstance(length, int) else 0
