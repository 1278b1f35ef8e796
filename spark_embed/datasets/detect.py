"""What kind of data set a folder holds, by the names of its files; opens only the heads of url lists."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain

from spark_embed.datasets.first_rows import names_files
from spark_embed.datasets.lists import LIST_SUFFIXES, has_column
from spark_embed.datasets.not_used import HEIC_SUFFIXES, NotUsed, is_companion, kind_of_file
from spark_embed.datasets.shards import BadShard
from spark_embed.errors import ConfigError
from spark_embed.storage import StoredFile, is_inside, is_s3, is_shown, shown_path, walk_files

PARQUET, TARS, FILES, FOLDER, LISTS = "parquet", "webdataset", "img2dataset_files", "image_folder", "url_list"

DESCRIPTIONS = {
    PARQUET: "parquet shards",
    TARS: "webdataset tars",
    FILES: "folders of images, each with its img2dataset parquet",
    FOLDER: "an image folder",
    LISTS: "CSV, TSV or JSONL lists of urls",
}
"""The layouts; what parquet shards hold (image bytes, Hugging Face images, urls) their columns say."""

_IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
)

TAR_SUFFIXES = (
    *(".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz"),
)

_TEXT_SUFFIXES = (".txt", ".json")
_LEFT_TO_OTHERS = ("_delta_log", "_change_data", "_spark_metadata")  # state of table formats, in folders
_OUTSIDE = "links out of the folders that may be read (--allowed_roots)"
_MAX_FOLDERS = 100_000
_MAX_LABELS = 100_000


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
        not_used: files that are there and that this layout does not read.
    """

    name: str
    root: str
    files: tuple[StoredFile, ...] = ()
    sidecars: Mapping[str, StoredFile] = field(default_factory=dict)
    has_labels: bool = False
    bad: tuple[BadShard, ...] = ()
    not_used: NotUsed = field(default_factory=NotUsed)

    @property
    def is_folder(self) -> bool:
        """Whether the images are files of a folder, without a table that names them."""
        return self.name == FOLDER


_TABLES = {PARQUET: (".parquet",), TARS: TAR_SUFFIXES, LISTS: LIST_SUFFIXES}


@dataclass
class _Seen:
    """What a walk through the folder has met; `roots` are the folders that links may lead to."""

    roots: tuple[str, ...] = ()
    parquet: list[StoredFile] = field(default_factory=list)
    tars: list[StoredFile] = field(default_factory=list)
    lists: list[StoredFile] = field(default_factory=list)
    n_images: int = 0
    image: str = ""
    n_at_top: int = 0
    folders: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)
    outside: dict[str, list[StoredFile]] = field(default_factory=lambda: {one: [] for one in _TABLES})
    texts: NotUsed = field(default_factory=NotUsed)
    others: NotUsed = field(default_factory=NotUsed)

    def add(self, file: StoredFile) -> None:
        path, name = shown_path(file.path), file.path.lower()
        layout = next((layout for layout, suffixes in _TABLES.items() if name.endswith(suffixes)), None)
        if file.unlisted:
            self.others.add(f"folder that cannot be listed ({file.unlisted})", path)
        elif is_image(name):  # even _DSC0001.jpg, as cameras name them
            self._add_image(file.path)
        elif is_companion(path) or any(part in _LEFT_TO_OTHERS for part in path.split("/")[:-1]):
            pass
        elif layout and not is_shown(file.path):
            self.others.add(f"{kind_of_file(path)} below a name that begins with _", path)
        elif file.is_dead_link and layout in (None, LISTS):
            self.others.add("link that leads nowhere", path)
        elif layout and file.leads_to and not any(is_inside(file.leads_to, root) for root in self.roots):
            self.outside[layout].append(file)
        elif layout:
            {PARQUET: self.parquet, TARS: self.tars, LISTS: self.lists}[layout].append(file)
        else:
            others = self.texts if name.endswith(_TEXT_SUFFIXES) else self.others
            others.add(kind_of_file(path), path)

    def _add_image(self, path: str) -> None:
        self.n_images += 1
        self.image = self.image or shown_path(path)
        first, _, rest = path.partition("/")
        self.n_at_top += not rest
        if rest and len(self.labels) < _MAX_LABELS:
            self.labels.add(first)
        if len(self.folders) < _MAX_FOLDERS:
            self.folders.add(os.path.dirname(path))


def is_image(path: str) -> bool:
    """Say whether a file is an image that is read here, by its name."""
    name = path.lower()
    return name.endswith(_IMAGE_SUFFIXES) or (name.endswith(HEIC_SUFFIXES) and _can_decode_heic())


@cache
def _can_decode_heic() -> bool:
    from spark_embed.inference.decode.heif import can_decode_heic  # a tenth of a second for all of Pillow

    return can_decode_heic()


def detect(root: str, wanted: str, url_column: str, roots: Sequence[str] = ()) -> Layout:
    """Find out which layout the files below `root` have.

    Images beside a table that names them by relative paths belong to the table.

    Args:
        wanted: one of `DESCRIPTIONS` (--layout), or "auto".
        url_column: the column that makes a CSV, TSV or JSONL file a list of urls (--url_column).
        roots: other folders that links may lead to.

    Raises:
        ConfigError: nothing to embed, or files of several layouts.
        StorageError: a folder cannot be listed.
    """
    seen = _Seen(tuple(os.path.realpath(one) for one in roots if not is_s3(one)))
    for file in walk_files(root):
        seen.add(file)
    found = _layouts(root, seen, url_column)
    if wanted != "auto":
        if wanted not in found:
            raise ConfigError(
                f"--layout {wanted}: --input_dir {root} holds no {DESCRIPTIONS[wanted]}; it holds "
                + (_listed(found, seen) or "nothing that can be embedded")
            )
        return _with_not_used(found[wanted], found, seen, url_column)
    if not found:
        raise ConfigError(
            f"--input_dir {root} holds {_nothing_of(seen, url_column) or 'no data'}: nothing to embed. "
            "That would be parquet files, tars, images, or CSV, TSV or JSONL files with a column "
            f"{url_column!r} (--url_column)"
        )
    if len(found) == 2 and FOLDER in found:
        table = next(layout for name, layout in found.items() if name != FOLDER)
        if table.files and names_files(os.path.join(root, table.files[0].path), url_column):
            del found[FOLDER]  # its images are the table's
            return _with_not_used(table, found, seen, url_column)
    if len(found) > 1:
        raise ConfigError(
            f"--input_dir {root} mixes layouts: {_listed(found, seen)}; choose one with --layout, or "
            "point --input_dir at a subfolder"
        )
    return _with_not_used(next(iter(found.values())), found, seen, url_column)


def _layouts(root: str, seen: _Seen, url_column: str) -> dict[str, Layout]:
    """Return every layout that some of the files have; a file belongs to one at most."""
    stems = {_stem(tar.path): tar.path for tar in seen.tars}
    sidecars = {stems[stem]: file for file in seen.parquet if (stem := _stem(file.path)) in stems}
    beside = [file for file in seen.parquet if _stem(file.path) in seen.folders]
    are_files = bool(beside) and len(beside) == len(seen.parquet) == len(seen.folders)
    used = {*sidecars.values(), *(beside if are_files else ())}
    shards = [file for file in seen.parquet if file not in used]
    lists = [file for file in seen.lists if has_column(os.path.join(root, file.path), url_column)]
    found = {
        PARQUET: Layout(PARQUET, root, _ordered(shards)) if shards else None,
        TARS: Layout(TARS, root, _ordered(seen.tars), sidecars) if seen.tars else None,
        FILES: Layout(FILES, root, _ordered(beside)) if are_files else None,
        LISTS: Layout(LISTS, root, _ordered(lists)) if lists else None,
    }
    if seen.n_images and not are_files:
        has_labels = seen.n_at_top == 0 and len(seen.labels) > 1
        found[FOLDER] = Layout(FOLDER, root, has_labels=has_labels)
    return {name: layout for name, layout in found.items() if layout}


def _with_not_used(layout: Layout, found: Mapping[str, Layout], seen: _Seen, url_column: str) -> Layout:
    """Return a layout with what is there besides it."""
    not_used = _unread(seen, found, url_column)
    if layout.name != FILES:  # there the parquet has it all
        not_used.update([seen.texts])
    for other in found.values():
        if other is not layout:
            kind = f"of layout {other.name}"
            not_used.add(kind, _example(other, seen), _n_files(other, seen))
    bad = []
    for name, files in seen.outside.items():
        if name == layout.name or (name == PARQUET and layout.name == FILES):
            bad += [BadShard(shown_path(file.path), f"{file.path} {_outside(file)}") for file in files]
        elif files:
            not_used.add(_OUTSIDE, shown_path(files[0].path), len(files))
    return replace(layout, bad=tuple(bad), not_used=not_used)


def _nothing_of(seen: _Seen, url_column: str) -> NotUsed:
    """Return what there is where nothing can be read."""
    not_used = _unread(seen, {}, url_column)
    not_used.update([seen.texts])
    for file in chain.from_iterable(seen.outside.values()):
        not_used.add(_OUTSIDE, f"{shown_path(file.path)} {_outside(file)}")
    return not_used


def _outside(file: StoredFile) -> str:
    return f"is a link to {shown_path(file.leads_to)}, outside the folders that may be read (--allowed_roots)"


def _unread(seen: _Seen, found: Mapping[str, Layout], url_column: str) -> NotUsed:
    """Return what belongs to none of the layouts."""
    not_used = NotUsed()
    not_used.update([seen.others])
    used = {file.path for file in found[LISTS].files} if LISTS in found else set()
    for file in seen.lists:
        if file.path not in used:
            not_used.add(f"{kind_of_file(file.path)} without a column {url_column!r}", shown_path(file.path))
    return not_used


def _stem(path: str) -> str:
    suffix = next((suffix for suffix in TAR_SUFFIXES if path.lower().endswith(suffix)), "")
    return path[: -len(suffix)] if suffix else os.path.splitext(path)[0]


def _ordered(files: Sequence[StoredFile]) -> tuple[StoredFile, ...]:
    return tuple(sorted(files, key=lambda file: file.path))


def _listed(found: Mapping[str, Layout], seen: _Seen) -> str:
    parts = []
    for name, layout in found.items():
        parts.append(f"{name} ({_n_files(layout, seen):,} files, such as {_example(layout, seen)})")
    return ", ".join(parts)


def _n_files(layout: Layout, seen: _Seen) -> int:
    return seen.n_images if layout.is_folder else len(layout.files)


def _example(layout: Layout, seen: _Seen) -> str:
    return seen.image if layout.is_folder else shown_path(layout.files[0].path)
