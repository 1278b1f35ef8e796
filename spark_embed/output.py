"""The places below --output_dir, and whether it is safe to write there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from spark_embed.config import Config
from spark_embed.errors import ConfigError, StorageError
from spark_embed.storage import delete, folder_path, is_below, list_names, read_json, write_json

EMBEDDINGS_NAME = "embeddings.parquet"
ERRORS_NAME = "errors.parquet"
METADATA_NAME = "metadata.json"
STATE_NAME = "_spark_embed"
_OURS = {EMBEDDINGS_NAME, ERRORS_NAME, METADATA_NAME, STATE_NAME}


@dataclass(frozen=True)
class Output:
    """The places below --output_dir; docs/output.md shows the picture.

    Attributes:
        root: absolute path of --output_dir.
        attempt: names this run's folders: what the executors of a dead run still write lands elsewhere.
    """

    root: str
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

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
    def index(self) -> str:
        """Folder of the index of an input that is not parquet."""
        return os.path.join(self.root, STATE_NAME, "index")

    @property
    def wave(self) -> str:
        """Folder of the wave's data, until it is published."""
        return os.path.join(self.root, STATE_NAME, "waves", f"0000-{self.attempt}")

    @property
    def staged(self) -> str:
        """Folder in which the published files are made, before they take the place of older ones."""
        return os.path.join(self.root, STATE_NAME, "publish", self.attempt)

    def clear_state(self) -> None:
        """Delete the data of waves and of unfinished publishing, of this run or of an abandoned one."""
        for name in ("waves", "publish"):
            delete(os.path.join(self.root, STATE_NAME, name))


def check_output(config: Config) -> Output:
    """Return the places of the output, once it is safe to write there. Writes nothing.

    Raises:
        ConfigError: mixed up with the input, somebody else's files, or a run of ours without --overwrite.
        StorageError: it cannot be created or read.
    """
    root = folder_path(config.output_dir, "--output_dir")
    input_dir = folder_path(config.input_dir, "--input_dir")
    if is_below(root, input_dir):
        raise ConfigError(
            f"--output_dir {root}: lies inside --input_dir {input_dir}, and the next run would read it; "
            "choose another"
        )
    if is_below(input_dir, root):
        raise ConfigError(f"--output_dir {root}: --input_dir {input_dir} lies inside it; choose another")
    output = Output(root)
    if names := list_names(root):
        _check_ours(output, names, overwrite=config.overwrite)
    parent = next(path for path in _ancestors(root) if os.path.lexists(path))
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK):
        raise StorageError(f"--output_dir {root}: {parent} is not a folder that can be written to")
    return output


def start_output(output: Output, record: dict[str, object]) -> None:
    """Mark the folder as ours and clear what an unfinished run left; published files stay for now."""
    output.clear_state()
    write_json(output.run_record, {"product": "spark_embed", **record})


def _check_ours(output: Output, names: Sequence[str], *, overwrite: bool) -> None:
    root = output.root
    if foreign := [name for name in names if name not in _OURS]:
        raise ConfigError(
            f"--output_dir {root}: holds files that are not ours ({foreign[0]}); choose another folder"
        )
    record = read_json(output.run_record)
    if record is None and _only_begun(output, names):
        return
    if not isinstance(record, dict) or record.get("product") != "spark_embed":
        raise ConfigError(
            f"--output_dir {root}: holds {names[0]}, but no {STATE_NAME}/run.json says that it is ours; "
            "choose another folder"
        )
    if "model" not in record and names == [STATE_NAME]:
        return  # its model could not be used: there is an index at most
    if not overwrite:
        state = "a finished" if os.path.exists(output.metadata) else "an unfinished"
        raise ConfigError(f"--output_dir {root}: holds {state} run; replace it with --overwrite")


def _only_begun(output: Output, names: Sequence[str]) -> bool:
    """Say whether a run of ours ended after it had made its folder and before run.json was there."""
    state = os.path.dirname(output.run_record)
    run_record = os.path.basename(output.run_record)
    return names == [STATE_NAME] and all(name.startswith(run_record) for name in list_names(state))


def _ancestors(path: str) -> Sequence[str]:
    found = [path]
    while (parent := os.path.dirname(found[-1])) != found[-1]:
        found.append(parent)
    return found
