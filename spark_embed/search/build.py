"""build_index(): what is published -> a trained kind; parts, a task each; recall, measured; the manifest.

A build that was interrupted goes on: a part is done when its record is there. One over a data set that has
grown, shrunk or changed makes the parts that the changed files need, and no others.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from pyspark.sql import SparkSession

from spark_embed.errors import ConfigError, StorageError
from spark_embed.output.lock.lock import OutputLock
from spark_embed.output.records import now
from spark_embed.search import kinds
from spark_embed.search.data_set_record import of_data_set
from spark_embed.search.files import key_of, take_folder
from spark_embed.search.manifest import (
    MANIFEST_NAME,
    PARTS_NAME,
    Manifest,
    Part,
    read_manifest,
    relative_root,
    write_manifest,
)
from spark_embed.search.part import Work, make_part
from spark_embed.search.recall import TARGET_RECALL, Recall, measure
from spark_embed.search.training import queries_name, train, trained_name
from spark_embed.search.vectors import DataFile, DataSet, dim_of, read_data_set
from spark_embed.spark.tasks import run_tasks
from spark_embed.storage import delete_file, folder_path, list_files, read_text

logger = logging.getLogger(__name__)

INDEX_NAME = "index"

_OUR_PREFIXES = ("trained-", "queries-", "lock.", MANIFEST_NAME, PARTS_NAME)
_PART_ROWS = 250_000
_MAX_PARTS = 256
_GROWN_FACTOR = 4
"""An index of a data set that is so many times as large as when it was trained is trained anew."""


@dataclass(frozen=True)
class BuildOptions:
    """How to index.

    Attributes:
        column: of the vectors; None for the images'.
        factory: FAISS's name of a kind; None for the one that suits.
        max_bytes: of memory that the index may take when it is searched, and its training now.
        part_rows: rows of a part, about; None for what suits.
    """

    column: str | None = None
    factory: str | None = None
    max_bytes: int | None = None
    part_rows: int | None = None


def build_index(
    output_dir: str,
    index_dir: str | None = None,
    options: BuildOptions = BuildOptions(),
    session: Callable[[], SparkSession] | None = None,
) -> Manifest:
    """Bring an index up to date with what is published in an output folder.

    Args:
        output_dir: of a run.
        index_dir: of the index; None for `index` in the output folder.
        options: how.
        session: gives a Spark session, where there are several parts to make; None: this process makes all.

    Raises:
        ConfigError: nothing is published, there are no vectors, or an option is wrong.
        ResumeError: another build is at work in the folder, or what stands in it is not ours.
        StorageError: a file cannot be read or written.
    """
    data = read_data_set(output_dir, options.column)
    root = folder_path(index_dir or f"{data.root}/{INDEX_NAME}", "INDEX_DIR")
    take_folder(root, data.root, _OUR_PREFIXES, "INDEX_DIR")
    with OutputLock(f"{root}/lock.json", root) as lock:
        found = read_manifest(root)
        if found and _is_current(root, found, data, options):
            logger.info("nothing to do: all %d parts are there", len(found.parts))
            return found
        build = _begin(data, root, options, found, data.n_rows)
        if n_vectors := build.train():
            build = _begin(data, root, options, found, n_vectors)
            build.train()
        kept = found.parts if found and found.trained == build.key else ()
        parts = build.make(plan_parts(data, build.key, kept, options.part_rows), session)
        manifest = build.manifest(parts, measure(root, build.key, build.kind.factory, build.dim, parts))
        lock.check()
        write_manifest(root, manifest)
        _tidy(root, manifest)
    return manifest


def plan_parts(data: DataSet, key: str, kept: Sequence[Part], part_rows: int | None = None) -> list[Part]:
    """Return the parts that there are to be; those of `kept` whose files all are as they were stay.

    Small ones give their files up where there are new ones to go with them.
    """
    wanted = part_rows or max(_PART_ROWS, data.n_rows // _MAX_PARTS)
    there = set(data.files)
    kept = [part for part in kept if there.issuperset(part.files)]
    new = there.difference(*(part.files for part in kept))
    if new:
        kept = [part for part in kept if part.n_rows >= wanted // 2]
        new = there.difference(*(part.files for part in kept))
    groups: list[list[DataFile]] = []
    n_rows = wanted
    for file in data.files:
        if file not in new:
            continue
        if n_rows + file.n_rows > wanted and n_rows:
            groups.append([])
            n_rows = 0
        groups[-1].append(file)
        n_rows += file.n_rows
    made = [Part(name=key_of(key, *map(list, files)), files=tuple(files), n_vectors=0) for files in groups]
    return [*kept, *made]


@dataclass(frozen=True)
class _Build:
    """A build: of which vectors, where, and how.

    Attributes:
        key: names what the parts were trained to.
        n_trained_of: rows of the data set when they were.
    """

    data: DataSet
    root: str
    dim: int
    kind: kinds.Kind
    key: str
    n_trained_of: int

    def train(self) -> int | None:
        """Learn what the parts need; returns how many vectors there are if they are too few for it."""
        return train(self.data, self.dim, self.kind, self.root, self.key)

    def make(self, parts: Sequence[Part], session: Callable[[], SparkSession] | None) -> list[Part]:
        """Make the parts that are not there; returns all, with what they hold."""
        sizes = _sizes(self.root)
        done = {part.name for part in parts if _read_part(self.root, part, sizes)}
        missing = [part for part in parts if part.name not in done]
        if missing:
            logger.info("indexing %d parts, %d are there", len(missing), len(done))
        is_here = session is None or len(missing) < 2
        work = [self._work(part, len(os.sched_getaffinity(0)) if is_here else 1) for part in missing]
        if session is None or is_here:
            for one in work:
                make_part(one)
        else:
            run_tasks(session(), make_part, work)
        sizes = _sizes(self.root)
        found = [made for part in parts if (made := _read_part(self.root, part, sizes))]
        if len(found) < len(parts):
            raise StorageError(f"{self.root}: a part that was just written is not there, or cut: index again")
        return found

    def _work(self, part: Part, n_threads: int) -> Work:
        paths = tuple(self.data.path(file.name) for file in part.files)
        return Work(self.root, self.key, part, paths, self.data.column, self.dim, n_threads)

    def manifest(self, parts: Sequence[Part], measured: Recall) -> Manifest:
        """Return what to write of it, with the least effort that suffices."""
        good = [one for one in measured.efforts if one.recall is None or one.recall >= TARGET_RECALL]
        best = good[0] if good else max(measured.efforts, key=lambda one: one.recall or 0)
        if not good:
            logger.warning(
                "recall@10 is %.3f at most, below %.2f: give --max_memory more, or another --factory",
                best.recall,
                TARGET_RECALL,
            )
        return Manifest(
            built_at=now(),
            **of_data_set(self.data, self.dim) | {"output_dir": relative_root(self.data.root, self.root)},
            n_vectors=sum(part.n_vectors for part in parts),
            factory=self.kind.factory,
            trained=self.key,
            n_trained_of=self.n_trained_of,
            effort=best.effort,
            effort_name=measured.effort_name,
            n_queries=measured.n_queries,
            measured=tuple(measured.efforts),
            parts=tuple(parts),
        )


def _begin(data: DataSet, root: str, options: BuildOptions, found: Manifest | None, n_vectors: int) -> _Build:
    """Choose the kind for about so many vectors; that of the index that is there, while it suits."""
    dim = dim_of(data)
    if options.factory:
        kind = kinds.given_kind(options.factory, data.n_rows, dim)
        if n_vectors < (n_cells := kinds.cells_of(kinds.make_empty(options.factory, dim))):
            raise ConfigError(
                f"--factory {options.factory}: {n_cells:,} cells are more than there are vectors to learn "
                f"them from ({n_vectors:,})"
            )
    else:
        kind = kinds.choose_kind(n_vectors, dim, options.max_bytes or kinds.default_memory())
    if found and _suits(found, data, kind, options):
        kept = kinds.Kind(found.factory, "as it was", 0)
        return _Build(data, root, dim, kept, found.trained, found.n_trained_of)
    logger.info("index %s for %s vectors of %d: %s", kind.factory, f"{data.n_rows:,}", dim, kind.says)
    key = key_of(data.run_id, data.column, data.fingerprint, kind.factory, dim, data.n_rows)
    return _Build(data, root, dim, kind, key, data.n_rows)


def _is_same_data(found: Manifest, data: DataSet) -> bool:
    return (found.run_id, found.column, found.fingerprint) == (data.run_id, data.column, data.fingerprint)


def _suits(found: Manifest, data: DataSet, kind: kinds.Kind, options: BuildOptions) -> bool:
    """Say whether the data set's new parts may begin with what the index was trained to."""
    if not _is_same_data(found, data):
        return False
    of_like_size = data.n_rows / _GROWN_FACTOR <= found.n_trained_of <= data.n_rows * _GROWN_FACTOR
    if found.factory == kind.factory:
        return of_like_size or kind.n_train == 0
    is_asked = options.factory is not None or options.max_bytes is not None
    return of_like_size and not is_asked and found.factory != "Flat"


def _is_current(root: str, found: Manifest, data: DataSet, options: BuildOptions) -> bool:
    if not _is_same_data(found, data) or options.factory not in (None, found.factory) or options.max_bytes:
        return False
    if sorted(file for part in found.parts for file in part.files) != sorted(data.files):
        return False
    sizes = _sizes(root)
    return all(_read_part(root, part, sizes) for part in found.parts)


def _sizes(root: str) -> dict[str, int]:
    """Return the bytes of each file, by its path."""
    return {file.path: file.n_bytes for file in list_files(root, "")}


def _read_part(root: str, part: Part, sizes: Mapping[str, int]) -> Part | None:
    """Return a part as its record has it; None if it is not made, is damaged, or is not of these files."""
    text = read_text(f"{root}/{PARTS_NAME}/{part.name}.json")
    try:
        made = None if text is None else Part.model_validate_json(text)
    except ValidationError:
        return None
    if made is None or made.files != part.files or "faiss" not in made.n_bytes:
        return None
    place = f"{PARTS_NAME}/{part.name}"
    is_whole = all(sizes.get(f"{place}.{ending}") == size for ending, size in made.n_bytes.items())
    return made if is_whole else None


def _tidy(root: str, manifest: Manifest) -> None:
    """Delete what earlier states of the index had."""
    parts = {part.name for part in manifest.parts}
    kept = {trained_name(manifest.trained), queries_name(manifest.trained)}
    for file in list_files(root, ""):
        name = file.path.rpartition("/")[2]
        is_old_part = file.path.startswith(f"{PARTS_NAME}/") and name.partition(".")[0] not in parts
        is_old_training = name.startswith(("trained-", "queries-")) and name not in kept
        if is_old_part or is_old_training:
            delete_file(f"{root}/{file.path}")
