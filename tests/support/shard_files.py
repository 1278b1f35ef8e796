"""Small shards, parquet and tar, and the source that is found in their folder."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.config import Config
from spark_embed.errors import ConfigError
from spark_embed.schema import IMAGE

from support.sources import find_source


def write(folder: Path, name: str, columns: dict, **options) -> None:
    """Put a shard of these columns into the folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    """Make a tar of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def break_pages(path: Path) -> None:
    """Break the data of a shard, all that its footer does not say."""
    data = bytearray(path.read_bytes())
    n_footer = int.from_bytes(data[-8:-4], "little") + 8
    data[4:-n_footer] = b"\x55" * (len(data) - 4 - n_footer)
    path.write_bytes(data)


def break_column(path: Path, name: str) -> None:
    """Break the data of one column of a shard of one row group, in the first bytes of its first page."""
    group = pq.read_metadata(path).row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == name)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 16] = b"\x55" * 16
    path.write_bytes(data)


def find(folder: Path, **options):
    """The source of the shards in the folder."""
    return find_source(Config(input_dir=str(folder), output_dir="unused", **options))


def rows(frame, *names):
    """The values of these columns, sorted."""
    return sorted(tuple(row[name] for name in names) for row in frame.drop(IMAGE).collect())


def error_of(folder: Path, **options) -> str:
    """The one line that says why there is no source."""
    with pytest.raises(ConfigError) as caught:
        find(folder, **options)
    text = str(caught.value)
    assert "\n" not in text, text
    return text
