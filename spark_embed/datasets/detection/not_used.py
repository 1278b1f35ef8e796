"""What lies in the input and is not read, counted by kind; decides nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

_SHOWN = 8
_INSTALL_HEIC = "pip install 'spark-embed[heic]'"

HEIC_SUFFIXES = (".heic", ".heif", ".hif")

UNREAD_IMAGES = (
    *HEIC_SUFFIXES,
    *(".jxl", ".jxr", ".svg", ".svgz", ".psd", ".exr", ".hdr", ".tga", ".ppm", ".pgm", ".pbm", ".ico"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),  # raw, of cameras
    *(".tar", ".tar.gz", ".zip"),
)
"""Images that are not read, and what may hold some: worth a word even among the members of a tar."""

_COMPANIONS = frozenset(
    [
        *("_success", "_metadata", "_common_metadata"),  # Spark, Dask
        *("readme", "license", "licence", "copying", "notice", "changelog", "citation", "authors", "version"),
        *("md5sum", "md5sums", "sha1sums", "sha256sum", "sha256sums", "sha512sums", "checksums", "makefile"),
        *("thumbs.db", "desktop.ini", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"),
        *("state.json", "croissant.json"),
    ]
)
_COMPANION_STARTS = ("_started_", "_committed_", ".")  # Databricks
_COMPANION_ENDS = (
    *(".crc", ".md5", ".sha1", ".sha256", ".sha512", ".md", ".rst", ".html", ".htm", ".pdf", ".py", ".sh"),
    *(".ipynb", ".log", ".lock", ".idx", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".bib", ".lnk", ".url"),
    "_stats.json",  # img2dataset
)


@dataclass
class NotUsed:
    """Files, or parts of files, that are there and go into no row.

    Attributes:
        kinds: how many there are of each kind, and the first of them; a kind is a suffix, or says why.
    """

    kinds: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, kind: str, example: str, number: int = 1) -> None:
        """Count `number` more of a kind."""
        known, first = self.kinds.get(kind, (0, example))
        self.kinds[kind] = (known + number, first)

    def update(self, others: Iterable[NotUsed]) -> None:
        """Count what others have counted."""
        for other in others:
            for kind, (number, example) in other.kinds.items():
                self.add(kind, example, number)

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def __str__(self) -> str:
        """Say it in one line: "3 .heic (such as IMG_3.HEIC), 1 .tar.gz (b.tar.gz)"."""
        most = sorted(self.kinds.items(), key=lambda item: -item[1][0])
        parts = [
            f"{number:,} {kind} ({'such as ' if number > 1 else ''}{example})"
            for kind, (number, example) in most[:_SHOWN]
        ]
        if rest := most[_SHOWN:]:
            parts.append(f"{sum(number for _, (number, _) in rest):,} of {len(rest)} other kinds")
        said = ", ".join(parts)
        is_heic = any(kind.startswith(HEIC_SUFFIXES) for kind in self.kinds)
        return f"{said}; {_INSTALL_HEIC} reads HEIC" if is_heic else said


def is_companion(path: str) -> bool:
    """Say whether a file is one of those that lie beside data without being any: not worth a word."""
    name = os.path.basename(path).lower()
    is_known = name in _COMPANIONS or name.removesuffix(".txt") in _COMPANIONS
    return is_known or name.startswith(_COMPANION_STARTS) or name.endswith(_COMPANION_ENDS)


def kind_of_file(path: str) -> str:
    """Return the kind of a file that no layout reads: its suffix, both of a.tar.gz."""
    stem, suffix = os.path.splitext(os.path.basename(path).lower())
    if suffix in (".gz", ".bz2", ".xz", ".zst"):
        suffix = os.path.splitext(stem)[1] + suffix
    return suffix or "without a suffix"
