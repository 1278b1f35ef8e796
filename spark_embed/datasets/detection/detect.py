"""What kind of data set a folder holds, by the names of its files; opens only the heads of url lists."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from spark_embed.datasets.delimited import STANDARD
from spark_embed.datasets.detection.first_rows import first_names_files
from spark_embed.datasets.detection.list_files import ListFiles, find_lists
from spark_embed.datasets.detection.not_used import NotUsed, kind_of_file
from spark_embed.datasets.detection.seen import LIST_FILES, PARQUET_FILES, TAR_FILES, TAR_SUFFIXES, Seen
from spark_embed.datasets.detection.table_formats import NOT_LIVE, live_files
from spark_embed.datasets.shards import BadShard
from spark_embed.errors import ConfigError
from spark_embed.storage import StoredFile, is_s3, shown_path, walk_files

PARQUET, TARS, FILES, FOLDER, LISTS = "parquet", "webdataset", "img2dataset_files", "image_folder", "url_list"

DESCRIPTIONS = {
    PARQUET: "parquet shards",
    TARS: "webdataset tars",
    FILES: "folders of images, each with its img2dataset parquet",
    FOLDER: "an image folder",
    LISTS: "CSV, TSV or JSONL lists of urls",
}
"""The layouts; what parquet shards hold (image bytes, Hugging Face images, urls) their columns say."""

_LAYOUTS_OF = {PARQUET_FILES: (PARQUET, FILES), TAR_FILES: (TARS,), LIST_FILES: (LISTS,)}
_OUTSIDE = "links out of the folders that may be read (--allowed_roots)"


NOT_COMPARED = "images beside a table that is too long, or too broken, to say which it names"


@dataclass(frozen=True)
class Layout:
    """What was found.

    Attributes:
        name: one of `DESCRIPTIONS`.
        root: the input folder, absolute.
        files: shards, tars, folders' parquet files or lists, sorted by path; none for an image folder.
        sidecars: the img2dataset parquet of a tar, by the tar's path.
        has_labels: every image of an image folder lies in a folder, and there are several of those.
        bad: files of this layout that are not read, and why.
        has_urls: the column that the lists have is one of urls; else their rows have no images.
        columns: of a table, those that are read; none of other layouts.
        metadata: Hugging Face's files with columns for the images of an image folder.
        beside: images that lie beside the table, whose rows may name them or not.
        not_used: files that are there and that this layout does not read.
    """

    name: str
    root: str
    files: tuple[StoredFile, ...] = ()
    sidecars: Mapping[str, StoredFile] = field(default_factory=dict)
    has_labels: bool = False
    bad: tuple[BadShard, ...] = ()
    has_urls: bool = True
    columns: tuple[str, ...] = ()
    metadata: tuple[StoredFile, ...] = ()
    beside: NotUsed = field(default_factory=NotUsed)
    not_used: NotUsed = field(default_factory=NotUsed)

    @property
    def is_folder(self) -> bool:
        """Whether the images are files of a folder, without a table that names them."""
        return self.name == FOLDER


def detect(
    root: str,
    wanted: str,
    url_column: str,
    roots: Sequence[str] = (),
    *,
    quoting: str = STANDARD,
    flag: str = "--url_column",
) -> Layout:
    """Find out which layout the files below `root` have.

    Images beside a table that names them by relative paths belong to the table.

    Args:
        wanted: one of `DESCRIPTIONS` (--layout), or "auto".
        url_column: the column that makes a CSV, TSV or JSONL file a list, of urls unless `flag` says else.
        roots: other folders that links may lead to.
        quoting: of the lists (--list_quoting).
        flag: that names the column.

    Raises:
        ConfigError: nothing to embed, or files of several layouts; a list beside images has an open quote.
        StorageError: a folder cannot be listed, or no list beside images can be read.
    """
    seen = Seen(tuple(os.path.realpath(one) for one in roots if not is_s3(one)))
    for file in walk_files(root):
        seen.add(file)
    seen.parquet, old = live_files(root, seen.tables, seen.parquet)
    for file in old:
        seen.others.add(NOT_LIVE, shown_path(file.path))
    if seen.n_images and wanted in ("auto", FOLDER):
        seen.set_metadata_apart(root, url_column)
    lists = find_lists(root, seen.lists, url_column, flag)
    found = _layouts(root, seen, lists)
    if table := _table_of_images(root, found, lists, url_column, quoting, wanted):
        images, beside = found.pop(FOLDER), NotUsed()
        beside.add(NOT_COMPARED, _example(images, seen), _n_files(images, seen))
        found[table] = replace(found[table], beside=beside)
    if wanted != "auto":
        if wanted not in found:
            raise ConfigError(
                f"--layout {wanted}: --input_dir {root} holds no {DESCRIPTIONS[wanted]}; it holds "
                + (_listed(found, seen) or "nothing that can be embedded")
            )
        return _with_not_used(found[wanted], found, seen, lists)
    if not found:
        raise ConfigError(
            f"--input_dir {root} holds {_nothing_of(seen, lists) or 'no data'}: nothing to embed. "
            "That would be parquet files, tars, images, or CSV, TSV or JSONL files with a column "
            f"{url_column!r} ({flag})"
        )
    if len(found) > 1:
        raise ConfigError(
            f"--input_dir {root} mixes layouts: {_listed(found, seen)}; choose one with --layout, or "
            "point --input_dir at a subfolder"
        )
    return _with_not_used(next(iter(found.values())), found, seen, lists)


def _table_of_images(
    root: str, found: dict[str, Layout], lists: ListFiles, url_column: str, quoting: str, wanted: str
) -> str | None:
    """Return the name of the one table, if the images beside it are its own, or may be."""
    names = [wanted] if wanted != "auto" else [name for name in found if name != FOLDER]
    if FOLDER not in found or len(names) != 1 or names[0] not in found or names[0] not in (PARQUET, LISTS):
        return None
    table = found[names[0]]
    tables = lists.of_urls if table.name == LISTS else table.files[:1]
    paths = [os.path.join(root, file.path) for file in tables]
    is_theirs = wanted != "auto" or first_names_files(paths, url_column, quoting)
    return table.name if is_theirs else None


def _layouts(root: str, seen: Seen, lists: ListFiles) -> dict[str, Layout]:
    """Return every layout that some of the files have; a file belongs to one at most."""
    stems = {_stem(tar.path): tar.path for tar in seen.tars}
    sidecars = {stems[stem]: file for file in seen.parquet if (stem := _stem(file.path)) in stems}
    beside = [file for file in seen.parquet if _stem(file.path) in seen.folders]
    are_files = bool(beside) and len(beside) == len(seen.parquet) == len(seen.folders)
    used = {*sidecars.values(), *(beside if are_files else ())}
    shards = [file for file in seen.parquet if file not in used]
    found = {
        PARQUET: Layout(PARQUET, root, _ordered(shards)) if shards else None,
        TARS: Layout(TARS, root, _ordered(seen.tars), sidecars) if seen.tars else None,
        FILES: Layout(FILES, root, _ordered(beside)) if are_files else None,
        LISTS: Layout(LISTS, root, _ordered(lists.to_read)) if lists.to_read else None,
    }
    if seen.n_images and not are_files:
        has_labels = seen.n_at_top == 0 and len(seen.labels) > 1 and not seen.metadata
        found[FOLDER] = Layout(FOLDER, root, has_labels=has_labels, metadata=_ordered(seen.metadata))
    return {name: layout for name, layout in found.items() if layout}


def _with_not_used(layout: Layout, found: Mapping[str, Layout], seen: Seen, lists: ListFiles) -> Layout:
    """Return a layout with what is there besides it."""
    not_used = _unread(seen, lists)
    if layout.name != FILES:  # there the parquet has it all
        not_used.update([seen.texts])
    for other in found.values():
        if other is not layout:
            kind = f"of layout {other.name}"
            not_used.add(kind, _example(other, seen), _n_files(other, seen))
    bad = []
    for name, files in seen.outside.items():
        if layout.name in _LAYOUTS_OF[name]:
            bad += [BadShard(shown_path(file.path), f"{file.path} {_outside(file)}") for file in files]
        elif files:
            not_used.add(_OUTSIDE, shown_path(files[0].path), len(files))
    for file in () if layout.is_folder else seen.metadata:
        kind = f"{kind_of_file(file.path)} with columns for images of a folder"
        not_used.add(kind, shown_path(file.path))
    return replace(layout, bad=tuple(bad), not_used=not_used)


def _nothing_of(seen: Seen, lists: ListFiles) -> NotUsed:
    """Return what there is where nothing can be read."""
    not_used = _unread(seen, lists)
    not_used.update([seen.texts])
    for file in chain.from_iterable(seen.outside.values()):
        not_used.add("links", f"{shown_path(file.path)} {_outside(file)}")
    return not_used


def _outside(file: StoredFile) -> str:
    return f"is a link to {shown_path(file.leads_to)}, outside the folders that may be read (--allowed_roots)"


def _unread(seen: Seen, lists: ListFiles) -> NotUsed:
    """Return what belongs to none of the layouts."""
    not_used = NotUsed()
    not_used.update([seen.others, lists.not_used()])
    return not_used


def _stem(path: str) -> str:
    suffix = next((suffix for suffix in TAR_SUFFIXES if path.lower().endswith(suffix)), "")
    return path[: -len(suffix)] if suffix else os.path.splitext(path)[0]


def _ordered(files: Sequence[StoredFile]) -> tuple[StoredFile, ...]:
    return tuple(sorted(files, key=lambda file: file.path))


def _listed(found: Mapping[str, Layout], seen: Seen) -> str:
    parts = []
    for name, layout in found.items():
        parts.append(f"{name} ({_n_files(layout, seen):,} files, such as {_example(layout, seen)})")
    return ", ".join(parts)


def _n_files(layout: Layout, seen: Seen) -> int:
    return seen.n_images if layout.is_folder else len(layout.files)


def _example(layout: Layout, seen: Seen) -> str:
    return seen.image if layout.is_folder else shown_path(layout.files[0].path)
