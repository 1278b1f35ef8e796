"""Columns in pages that Spark's own parquet readers lack, told from the footer before anything runs.

Tried on Spark 4.1: its vectorized reader reads every encoding that pyarrow, DuckDB and delta-rs write but
BYTE_STREAM_SPLIT, which its reader that goes row by row does; neither decompresses BROTLI or LZO.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import pyarrow.parquet as pq

from spark_embed.errors import ConfigError

_CODECS = ("BROTLI", "LZO")
_ENCODING = "BYTE_STREAM_SPLIT"

Pages = tuple[tuple[str, str], ...]
"""Columns of a file, each with the codec or the encoding of it that Spark's vectorized reader lacks."""


def find_odd_pages(footer: pq.FileMetaData, names: Sequence[str]) -> Pages:
    """Return the columns of a file, of these names, that Spark's vectorized reader does not read."""
    leaves = [footer.schema.column(index) for index in range(len(footer.schema))]
    # The encoding is never one of byte arrays, and most columns are that.
    numbers = [i for i, leaf in enumerate(leaves) if leaf.physical_type not in ("BYTE_ARRAY", "BOOLEAN")]
    found: dict[int, str] = {}
    for group in map(footer.row_group, range(footer.num_row_groups)):
        found |= {i: _ENCODING for i in numbers if i not in found and _ENCODING in group.column(i).encodings}
    if footer.num_row_groups:  # a writer has one codec for all of a column
        codecs = (footer.row_group(0).column(i).compression for i in range(len(leaves)))
        found |= {i: codec for i, codec in enumerate(codecs) if codec in _CODECS}
    return tuple({_column_of(leaves[i].path, names): what for i, what in found.items()}.items())


def _column_of(path: str, names: Sequence[str]) -> str:
    """Return which of the columns a leaf's path, with its dots, is in."""
    return max((name for name in names if f"{path}.".startswith(f"{name}.")), key=len, default=path)


def needs_plain_reader(files: Iterable[Pages], columns: Collection[str]) -> bool:
    """Say whether Spark reads some of these columns only row by row."""
    return any(what == _ENCODING and name in columns for pages in files for name, what in pages)


def is_readable(files: Iterable[Pages], column: str) -> bool:
    """Say whether Spark can read a column of these files at all."""
    return not any(name == column and what in _CODECS for pages in files for name, what in pages)


def check_readable(files: Iterable[tuple[str, Pages]], columns: Collection[str], image: str) -> None:
    """Check that Spark can read these columns of files, given as path and odd pages.

    Raises:
        ConfigError: it cannot, with the codec and the flag that helps; `image` is the image column.
    """
    for path, pages in files:
        codecs = {name: what for name, what in pages if name in columns and what in _CODECS}
        for name, codec in codecs.items():
            cure = f"leave out what is (--drop_columns {','.join(codecs)})"
            if name == image:
                cure = "let the workers read the images (--image_transport reference)"
            raise ConfigError(
                f"column {name!r} of {path} is compressed with {codec}, which Spark does not read: write the "
                f"shards anew with zstd, or {cure}"
            )
