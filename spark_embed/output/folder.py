"""The places below --output_dir, and whether it is safe to write there."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from spark_embed.config import Config
from spark_embed.errors import ConfigError, StorageError
from spark_embed.schema import EMBEDDINGS_NAME, ERRORS_NAME, PREDICTIONS_NAME
from spark_embed.storage import (
    check_writable,
    exists,
    folder_path,
    is_below,
    is_file,
    is_folder,
    is_s3,
    list_names,
    write_text,
)

TABLE_NAMES = (EMBEDDINGS_NAME, PREDICTIONS_NAME, ERRORS_NAME)
METADATA_NAME = "metadata.json"
STATE_NAME = "_spark_embed"
OUR_NAMES = frozenset((*TABLE_NAMES, METADATA_NAME, STATE_NAME))
_STAGED = re.compile(r"\.\d+-\d+\.tmp$")  # by a process that was killed (storage/local.py)
DRAFT_PREFIX = "draft-"
_BEGUN = (
    "run.json",
    "lock.json",
    "progress.json",
    "answers",
    "shards.parquet",
    "index",
    "extras",
    DRAFT_PREFIX,
)  # before run.json


@dataclass(frozen=True)
class Output:
    """The places below --output_dir; docs/output.md shows the picture.

    Attributes:
        root: absolute path of --output_dir.
        attempt: names this run's folders: what the executors of a dead run still write lands elsewhere.
        draft: where index and catalogue are instead, while nothing may change; None: in their place.
    """

    root: str
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    draft: str | None = None

    def table(self, kind: str) -> str:
        """Return the folder of a table, of `TABLE_NAMES`; the file of it, with --output_files 1."""
        return os.path.join(self.root, kind)

    def data_path(self, kind: str, name: str) -> str:
        """Return where a file is that the ledger lists.

        Args:
            kind: its table, of `TABLE_NAMES`.
            name: as it is listed: a file that is all there is of its kind has the kind's name.
        """
        return os.path.join(self.root, kind) if name == kind else os.path.join(self.root, kind, name)

    def data_names(self, kind: str) -> list[str]:
        """Return the names of the files of a kind that are there, listed or not; as `data_path` takes them.

        Raises:
            StorageError: they cannot be listed.
        """
        place = os.path.join(self.root, kind)
        return [*([kind] if is_file(place) else []), *(list_names(place) if is_folder(place) else [])]

    @property
    def metadata(self) -> str:
        """The run's record, written last."""
        return os.path.join(self.root, METADATA_NAME)

    @property
    def state(self) -> str:
        """Folder of what a later run goes on from."""
        return os.path.join(self.root, STATE_NAME)

    @property
    def run_record(self) -> str:
        """Says that this folder is ours, and what its vectors come from; written first."""
        return os.path.join(self.state, "run.json")

    @property
    def ledger(self) -> str:
        """The list of the published files."""
        return os.path.join(self.state, "files.json")

    @property
    def lock(self) -> str:
        """Says which run is at work here."""
        return os.path.join(self.state, "lock.json")

    @property
    def progress(self) -> str:
        """How far the run is that is at work here."""
        return os.path.join(self.state, "progress.json")

    @property
    def catalogue(self) -> str:
        """What is known of the data set's shards."""
        return os.path.join(self.draft or self.state, "shards.parquet")

    @property
    def index(self) -> str:
        """Folder of the index of an input that is not parquet."""
        return os.path.join(self.draft or self.state, "index")

    def as_draft(self) -> Output:
        """Return the same places, with index and catalogue in a folder to be thrown away."""
        return replace(self, draft=os.path.join(self.state, f"{DRAFT_PREFIX}{self.attempt}"))

    @property
    def markers(self) -> str:
        """Folder of the markers of complete waves."""
        return os.path.join(self.state, "markers")

    @property
    def waves(self) -> str:
        """Folder of the waves' data, until it is published."""
        return os.path.join(self.state, "waves")

    def wave(self, name: str) -> str:
        """Return the folder of one wave's data."""
        return os.path.join(self.waves, name)

    @property
    def answers(self) -> str:
        """Folder of what models keep while rows are pending, such as answers that were paid for."""
        return os.path.join(self.state, "answers")

    @property
    def extras(self) -> str:
        """Folder of notes (`note_extra`), each named as what it lets stand in `root`."""
        return os.path.join(self.state, "extras")

    @property
    def staged(self) -> str:
        """Folder in which this run makes the files to publish."""
        return os.path.join(self.state, "publish", self.attempt)

    @property
    def replaced(self) -> str:
        """Folder of what has left its place for files of the same name, until those are listed."""
        return os.path.join(self.state, "replaced")

    def replaced_of(self, run_id: str) -> str:
        """Return the folder in it of what that run has published."""
        return os.path.join(self.replaced, run_id)


def check_output(config: Config) -> Output:
    """Return the places of the output, once it is safe to write there. Writes nothing.

    Raises:
        ConfigError: mixed up with the input, or somebody else's files.
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
    above = () if is_s3(root) else (root, *map(str, PurePath(root).parents))
    if file := next(filter(is_file, above), None):
        which = "" if file == root else f"{file} "
        raise ConfigError(f"--output_dir {root}: {which}is a file; name a folder, which need not exist")
    output = Output(root)
    if names := list_names(root):
        _check_ours(output, names)
    try:
        check_writable(root)
    except OSError as exc:
        raise StorageError(f"--output_dir {root}: {exc}") from exc
    return output


def note_extra(output: Output, name: str) -> None:
    """Note that a file or folder of this name in `output.root` is no stranger's: runs leave it alone.

    A note of its own for each name: two writers at once lose none.

    Raises:
        StorageError: the note cannot be written.
    """
    write_text(os.path.join(output.extras, name), "")


def _check_ours(output: Output, names: Sequence[str]) -> None:
    root, extras = output.root, set(list_names(output.extras))
    names = [name for name in names if _STAGED.sub("", name) not in extras]
    if foreign := [name for name in names if _STAGED.sub("", name) not in OUR_NAMES]:
        raise ConfigError(
            f"--output_dir {root}: holds files that are not ours ({foreign[0]}); choose another folder"
        )
    if exists(output.run_record) or _only_begun(output, names):
        return  # state.py looks into it
    raise ConfigError(
        f"--output_dir {root}: holds {names[0]}, but no {STATE_NAME}/run.json says that it is ours; "
        "choose another folder"
    )


def _only_begun(output: Output, names: Sequence[str]) -> bool:
    """Say whether a run of ours ended after it had made its folder and before run.json was there."""
    return names == [STATE_NAME] and all(name.startswith(_BEGUN) for name in list_names(output.state))
