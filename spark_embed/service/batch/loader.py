"""The parquet shards of a data set as pandas and Python see them; knows no Spark session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.config import Config
from spark_embed.datasets.detection.detect import PARQUET, detect
from spark_embed.errors import ConfigError, StorageError, one_line
from spark_embed.service.batch.paths import Folder, check_name
from spark_embed.spark.s3.s3a import export_region
from spark_embed.storage import folder_path, is_folder, parquet_input, rows_per_batch, stat

_BATCH_BYTES = 8 << 20
_MAX_BATCH_ROWS = 64
_STREAM_BUFFER_BYTES = 1 << 20

_PARQUET_ONLY = "UnifiedDataLoader reads parquet shards only; BatchInferenceOrchestrator takes every layout"


class UnifiedDataLoader:
    """The parquet shards of a data set, to look at from Python; needs no Spark session.

    For `BatchInferenceOrchestrator` it only names the folder, which may then have any layout.

    Args:
        input_dir: as --input_dir.
        aws_region: region of the S3 buckets, for this whole process.

    Raises:
        ConfigError: no path that can be read.
    """

    def __init__(self, input_dir: Folder, aws_region: str | None = None) -> None:
        self.input_dir = folder_path(os.fspath(input_dir), "input_dir")
        self.aws_region = aws_region
        export_region(aws_region)

    def list_shards(self) -> list[str]:
        """Return the shards' paths below `input_dir`, sorted: the names in the outputs' column `shard`.

        Raises:
            ConfigError: there is no such folder, or it holds no parquet shards.
            StorageError: a folder cannot be listed.
        """
        if not is_folder(self.input_dir):
            raise ConfigError(f"input_dir {self.input_dir}: there is no such folder")
        try:
            layout = detect(self.input_dir, PARQUET, Config.model_fields["url_column"].default)
        except ConfigError as exc:
            raise ConfigError(f"{exc} ({_PARQUET_ONLY})") from exc
        return [file.path for file in layout.files]

    def load_shard(self, shard: str) -> pd.DataFrame:
        """Return all rows and columns of a shard's file, the images' bytes too; row i is `shard_row` i.

        Raises:
            ConfigError: the name is not that of a parquet shard.
            StorageError: it cannot be read.
        """
        with self._opened(shard) as file:
            frame: pd.DataFrame = file.read().to_pandas()
            return frame

    def iterate_samples(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of all shards in their order, each with its shard's columns, a null as None.

        In memory are a few rows and the page of the file that they are in, however large the shards.

        Raises:
            ConfigError: as `list_shards`.
            StorageError: a shard cannot be read.
        """
        for shard in self.list_shards():
            with self._opened(shard) as file:
                n_rows = rows_per_batch(file, _BATCH_BYTES, _MAX_BATCH_ROWS)
                for batch in file.iter_batches(n_rows, use_threads=False):
                    yield from batch.to_pylist()

    @contextmanager
    def _opened(self, shard: str) -> Iterator[pq.ParquetFile]:
        check_name(shard, "shard")
        if not shard.endswith(".parquet"):
            raise ConfigError(f"shard {shard!r}: is no *.parquet file ({_PARQUET_ONLY})")
        path = f"{self.input_dir}/{shard}"
        try:
            source = parquet_input(path, stat(path))
            # With pre_buffer, on by default, pyarrow 26 holds a whole row group whatever the buffer's size.
            with pq.ParquetFile(source, buffer_size=_STREAM_BUFFER_BYTES, pre_buffer=False) as file:
                yield file
        except (OSError, pa.ArrowException) as exc:
            raise StorageError(f"{path}: cannot be read as parquet: {one_line(exc, None)}") from exc
