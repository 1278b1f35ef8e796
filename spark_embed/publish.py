"""A complete wave -> right-sized embeddings.parquet and errors.parquet; needs no model."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_embed.config import Config
from spark_embed.errors import ConfigError, StorageError
from spark_embed.schema import EMBEDDING, ERROR, ERROR_DETAIL, RESULT, quoted
from spark_embed.storage import delete, folder_path, is_below, list_files, list_names, read_json, write_json
from spark_embed.tables import write_parquet

EMBEDDINGS_NAME = "embeddings.parquet"
ERRORS_NAME = "errors.parquet"
METADATA_NAME = "metadata.json"
STATE_NAME = "_spark_embed"
_OURS = {EMBEDDINGS_NAME, ERRORS_NAME, METADATA_NAME, STATE_NAME}


@dataclass(frozen=True)
class Output:
    """The places below --output_dir; see docs/output.md."""

    root: str

    @property
    def embeddings(self) -> str:
        """Folder of the rows with a vector."""
        return os.path.join(self.root, EMBEDDINGS_NAME)

    @property
    def errors(self) -> str:
        """Folder of the rows without one."""
        return os.path.join(self.root, ERRORS_NAME)

    @property
    def metadata(self) -> str:
        """The run's record, written last."""
        return os.path.join(self.root, METADATA_NAME)

    @property
    def run_record(self) -> str:
        """Says that this folder is ours, and what ran; written first."""
        return os.path.join(self.root, STATE_NAME, "run.json")

    @property
    def wave(self) -> str:
        """Folder of the wave's data, until it is published."""
        return os.path.join(self.root, STATE_NAME, "waves", "0000")

    def clear_wave(self) -> None:
        """Delete the wave's data, published or abandoned."""
        delete(os.path.dirname(self.wave))

    def describe(self) -> dict[str, object]:
        """Return what metadata.json says of the output."""
        files = list_files(self.embeddings, ".parquet")
        return {
            "output_dir": self.root,
            "embeddings": EMBEDDINGS_NAME,
            "errors": ERRORS_NAME,
            "n_files": len(files),
            "n_bytes": sum(file.n_bytes for file in files),
        }


def check_output(config: Config) -> Output:
    """Return the places of the output, once it is safe to write there. Writes nothing.

    Raises:
        ConfigError: inside the input, somebody else's files, or a run of ours without --overwrite.
        StorageError: it cannot be created or read.
    """
    root = folder_path(config.output_dir, "--output_dir")
    input_dir = folder_path(config.input_dir, "--input_dir")
    if is_below(root, input_dir):
        raise ConfigError(
            f"--output_dir {root}: lies inside --input_dir, the next run would read it; choose another"
        )
    output = Output(root)
    names = list_names(root)
    if foreign := [name for name in names if name not in _OURS]:
        raise ConfigError(
            f"--output_dir {root}: holds files that are not ours ({foreign[0]}); choose another folder"
        )
    if names:
        record = read_json(output.run_record)
        if not isinstance(record, dict) or record.get("product") != "spark_embed":
            raise ConfigError(
                f"--output_dir {root}: holds {names[0]}, but no {STATE_NAME}/run.json says that it is ours; "
                "choose another folder"
            )
        if not config.overwrite:
            state = "a finished" if os.path.exists(output.metadata) else "an unfinished"
            raise ConfigError(f"--output_dir {root}: holds {state} run; replace it with --overwrite")
    parent = next(p for p in _ancestors(root) if os.path.lexists(p))
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK):
        raise StorageError(f"--output_dir {root}: {parent} is not a folder that can be written to")
    return output


def start_output(output: Output, record: dict[str, object]) -> None:
    """Mark the folder as ours and clear what an unfinished run left; published files stay for now."""
    output.clear_wave()
    write_json(output.run_record, {"product": "spark_embed", **record})


def publish(wave: DataFrame, output: Output, file_bytes: int) -> None:
    """Write the two data sets from the wave.

    metadata.json goes first and comes back last, so that it never describes other files. Files are
    merged by coalesce: no shuffle, and the model has run already.
    """
    delete(output.metadata)
    own = [F.col(quoted(name)) for name in wave.columns if name != RESULT]
    result = F.col(RESULT)
    good = wave.where(result[ERROR].isNull()).select(*own, result[EMBEDDING].alias(EMBEDDING))
    bad = wave.where(result[ERROR].isNotNull()).select(
        *own, result[ERROR].alias(ERROR), result[ERROR_DETAIL].alias(ERROR_DETAIL)
    )
    n_bytes = sum(file.n_bytes for file in list_files(output.wave, ".parquet"))
    write_parquet(good.coalesce(max(1, math.ceil(n_bytes / file_bytes))), output.embeddings, EMBEDDING)
    write_parquet(bad.coalesce(1), output.errors, EMBEDDING)


def count_published(output: Output) -> tuple[int, int]:
    """Return the rows of embeddings.parquet and of errors.parquet, from the footers of their files."""
    return _count_rows(output.embeddings), _count_rows(output.errors)


def _count_rows(folder: str) -> int:
    files = list_files(folder, ".parquet")
    return sum(pq.read_metadata(os.path.join(folder, file.path)).num_rows for file in files)


def _ancestors(path: str) -> Sequence[str]:
    found = [path]
    while (parent := os.path.dirname(found[-1])) != found[-1]:
        found.append(parent)
    return found
