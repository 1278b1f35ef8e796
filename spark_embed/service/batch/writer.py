"""Files of a script's own, beside what a run writes; whole or not at all."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd
import pyarrow as pa

from spark_embed.errors import ConfigError
from spark_embed.output.folder import OUR_NAMES, Output, note_extra
from spark_embed.service.batch.paths import Folder, check_name
from spark_embed.spark.s3.s3a import export_region
from spark_embed.storage import folder_path, replaced_file, write_json


class UnifiedOutputWriter:
    """Files of a script's own below an output folder, beside what a run writes there.

    Each appears whole or not at all, in place of an older one of its name. Runs leave them alone.

    Args:
        output_dir: as --output_dir.
        aws_region: region of the S3 buckets, for this whole process.

    Raises:
        ConfigError: no path that can be written.
    """

    def __init__(self, output_dir: Folder, aws_region: str | None = None) -> None:
        self.output_dir = folder_path(os.fspath(output_dir), "output_dir")
        self.aws_region = aws_region
        export_region(aws_region)

    def write_parquet(self, df: pd.DataFrame, name: str) -> str:
        """Write a table, its index as `DataFrame.to_parquet` keeps it; returns the path.

        Args:
            df: any that parquet can hold.
            name: of the file, in a subfolder or not; .parquet is added if it is missing.

        Raises:
            ConfigError: the name is a run's or leaves the folder, or parquet cannot hold the table.
            StorageError: it cannot be written.
        """
        path = self._new_path(name, ".parquet")
        with replaced_file(path) as staged:
            try:
                df.to_parquet(staged, engine="pyarrow")
            except (pa.ArrowException, TypeError, ValueError) as exc:
                raise ConfigError(f"{name!r}: cannot be written as parquet: {exc}") from exc
        return path

    def write_json(self, obj: Any, name: str) -> str:
        """Write JSON; returns the path.

        Args:
            obj: anything that `json.dumps` takes.
            name: of the file, in a subfolder or not; .json is added if it is missing.

        Raises:
            ConfigError: the name is a run's or leaves the folder, or JSON cannot hold the object.
            StorageError: it cannot be written.
        """
        path = self._new_path(name, ".json")
        try:
            write_json(path, obj)
        except (TypeError, ValueError) as exc:
            raise ConfigError(f"{name!r}: cannot be written as JSON: {exc}") from exc
        return path

    def _new_path(self, name: str, suffix: str) -> str:
        name = name if name.endswith(suffix) else name + suffix
        first = check_name(name, "name")
        if first.lower() in OUR_NAMES:
            raise ConfigError(f"name {name!r}: {first} is what a run writes; choose another")
        note_extra(Output(self.output_dir), first)
        return f"{self.output_dir}/{name}"
