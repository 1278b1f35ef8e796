"""What a walk through the input folder meets, each file told by its name; decides on no layout."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cache

from spark_embed.datasets.detection.list_files import is_metadata
from spark_embed.datasets.detection.not_used import HEIC_SUFFIXES, NotUsed, is_companion, kind_of_file
from spark_embed.datasets.detection.table_formats import find_table
from spark_embed.datasets.lists import LIST_SUFFIXES
from spark_embed.storage import StoredFile, is_inside, is_shown, shown_path

PARQUET_FILES, TAR_FILES, LIST_FILES = "parquet", "tars", "lists"

_IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
)

TAR_SUFFIXES = (
    *(".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz"),
)

_TEXT_SUFFIXES = (".txt", ".json")
_LEFT_TO_OTHERS = ("_change_data", "_spark_metadata")  # state of table formats, in folders
_MAX_FOLDERS = 100_000
_MAX_LABELS = 100_000

_TABLES = {PARQUET_FILES: (".parquet",), TAR_FILES: TAR_SUFFIXES, LIST_FILES: LIST_SUFFIXES}


def is_image(path: str) -> bool:
    """Say whether a file is an image that is read here, by its name."""
    name = path.lower()
    return name.endswith(_IMAGE_SUFFIXES) or (name.endswith(HEIC_SUFFIXES) and _can_decode_heic())


@cache
def _can_decode_heic() -> bool:
    from spark_embed.inference.decode.heif import can_decode_heic  # a tenth of a second for all of Pillow

    return can_decode_heic()


@dataclass
class Seen:
    """What a walk through the folder has met; `roots` are the folders that links may lead to."""

    roots: tuple[str, ...] = ()
    parquet: list[StoredFile] = field(default_factory=list)
    tars: list[StoredFile] = field(default_factory=list)
    lists: list[StoredFile] = field(default_factory=list)
    metadata: list[StoredFile] = field(default_factory=list)
    n_images: int = 0
    image: str = ""
    n_at_top: int = 0
    folders: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)
    outside: dict[str, list[StoredFile]] = field(default_factory=lambda: {one: [] for one in _TABLES})
    texts: NotUsed = field(default_factory=NotUsed)
    others: NotUsed = field(default_factory=NotUsed)
    tables: dict[str, str] = field(default_factory=dict)

    def add(self, file: StoredFile) -> None:
        """Put a file where it belongs, by its name."""
        if state := find_table(file.path):
            self.tables.setdefault(*state)
            return
        path, name = shown_path(file.path), file.path.lower()
        table = next((table for table, suffixes in _TABLES.items() if name.endswith(suffixes)), None)
        if file.unlisted:
            self.others.add(f"folder that cannot be listed ({file.unlisted})", path)
        elif is_image(name):  # even _DSC0001.jpg, as cameras name them
            self._add_image(file.path)
        elif is_companion(path) or any(part in _LEFT_TO_OTHERS for part in path.split("/")[:-1]):
            pass
        elif table and not is_shown(file.path):
            self.others.add(f"{kind_of_file(path)} below a name that begins with _", path)
        elif file.is_dead_link and table in (None, LIST_FILES):
            self.others.add("link that leads nowhere", path)
        elif table and file.leads_to and not any(is_inside(file.leads_to, root) for root in self.roots):
            self.outside[table].append(file)
        elif table:
            {PARQUET_FILES: self.parquet, TAR_FILES: self.tars, LIST_FILES: self.lists}[table].append(file)
        else:
            others = self.texts if name.endswith(_TEXT_SUFFIXES) else self.others
            others.add(kind_of_file(path), path)

    def set_metadata_apart(self, root: str, url_column: str) -> None:
        """Take what belongs to the images out of the tables."""
        for files in (self.parquet, self.lists):
            apart = [file for file in files if is_metadata(os.path.join(root, file.path), url_column)]
            files[:] = [file for file in files if file not in apart]
            self.metadata += apart

    def _add_image(self, path: str) -> None:
        self.n_images += 1
        self.image = self.image or shown_path(path)
        first, _, rest = path.partition("/")
        self.n_at_top += not rest
        if rest and len(self.labels) < _MAX_LABELS:
            self.labels.add(first)
        if len(self.folders) < _MAX_FOLDERS:
            self.folders.add(os.path.dirname(path))
