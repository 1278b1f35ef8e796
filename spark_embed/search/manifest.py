"""index.json: what an index holds, of which state of a data set, and how good it is; written last."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spark_embed.errors import ConfigError, ResumeError, one_line
from spark_embed.output.records import Count
from spark_embed.search.data_set_record import OfDataSet
from spark_embed.search.vectors import DataFile
from spark_embed.storage import is_below, read_text, write_text

MANIFEST_NAME = "index.json"
PARTS_NAME = "parts"
RECALL_AT = 10


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Part(_Record):
    """A sub-index: the vectors of some published files, which it numbers through.

    Attributes:
        name: of its files, without their endings.
        files: in their order; the first row of each follows the last of the one before.
        n_vectors: of their rows that have a vector.
        n_bytes: of each of its own files, by ending; a part of which one is gone or cut is made again.
    """

    name: str
    files: tuple[DataFile, ...]
    n_vectors: Count
    n_bytes: dict[str, Count] = Field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        """Rows of its files."""
        return sum(file.n_rows for file in self.files)


class Measured(_Record):
    """How good and how fast searches with an effort are.

    Attributes:
        effort: cells looked into (nprobe), nodes kept in view (efSearch); 1 where each search is whole.
        recall: the part of the true `RECALL_AT` nearest, or of others as near, that are found, on average
            over the queries; None where no query has a neighbour.
        p50_ms, p95_ms: of one query alone, on one thread.
    """

    effort: Count
    recall: float | None
    p50_ms: float
    p95_ms: float


class Manifest(OfDataSet):
    """What an index is.

    Attributes:
        output_dir: the data set; relative to the index where that lies inside.
        n_vectors: rows that have a vector.
        factory: of the kind (`spark_embed.search.kinds`).
        trained: name of what all parts begin with.
        n_trained_of: rows of the data set when it was trained.
        effort: what a search takes unless it is told.
        n_queries: vectors of the data set that recall was measured with, by comparing with all others.
    """

    product: Literal["spark_embed_index"] = "spark_embed_index"
    format: Literal[1] = 1
    built_at: str
    n_vectors: Count
    factory: str
    trained: str
    n_trained_of: Count
    effort: Count
    effort_name: str
    n_queries: Count
    measured: tuple[Measured, ...]
    parts: tuple[Part, ...]

    @property
    def recall(self) -> float | None:
        """At the effort that searches take; None where there was nothing to measure."""
        return next((one.recall for one in self.measured if one.effort == self.effort), None)

    def data_root(self, index_dir: str) -> str:
        """Return where the data set is."""
        if self.output_dir.startswith(".."):
            for _ in self.output_dir.split("/"):
                index_dir = index_dir.rpartition("/")[0]
            return index_dir
        return self.output_dir


def relative_root(root: str, index_dir: str) -> str:
    """Return how the manifest says where the data set is: one that is moved with its index stays found."""
    if not is_below(index_dir, root):
        return root
    depth = index_dir.removeprefix(root).strip("/").count("/") + 1
    return "/".join([".."] * depth)


def read_manifest(index_dir: str) -> Manifest | None:
    """Return index.json, None if there is none.

    Raises:
        ResumeError: it is broken, or not ours.
        StorageError: it cannot be read.
    """
    path = f"{index_dir}/{MANIFEST_NAME}"
    text = read_text(path)
    if text is None:
        return None
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as exc:
        where = "delete the folder, and index again"
        raise ResumeError(f"{path}: is broken, or no index of ours ({one_line(exc)}); {where}") from exc


def existing_manifest(index_dir: str) -> Manifest:
    """Return index.json of an index that must be there.

    Raises:
        ConfigError: there is none.
    """
    manifest = read_manifest(index_dir)
    if manifest is None:
        raise ConfigError(f"{index_dir}: holds no {MANIFEST_NAME}; 'spark-embed index OUTPUT_DIR' makes one")
    return manifest


def write_manifest(index_dir: str, manifest: Manifest) -> None:
    """Write index.json: from here on its parts are the index.

    Raises:
        StorageError: it cannot be written.
    """
    write_text(f"{index_dir}/{MANIFEST_NAME}", manifest.model_dump_json(indent=1) + "\n")
