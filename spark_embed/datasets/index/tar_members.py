"""The members of a tar, plain or behind its end marker, and what links among them lead to; knows no samples.

One pass over the headers; no member's bytes are read.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterator
from functools import cached_property
from typing import BinaryIO, NamedTuple

from spark_embed.storage import open_binary, shown_path

_BLOCK_BYTES = 512  # POSIX.1-2017 pax, "ustar Interchange Format"
_CHUNK_BYTES = 1 << 20
_MAX_LINKS = 8  # one after the other


class Member(NamedTuple):
    """A file in a tar, or a link to one.

    Attributes:
        name: as the tar has it; bytes that are no UTF-8 are surrogates.
        offset, n_bytes: of its content in the tar's file.
        link: the name of the member that it is a link to; "" for a file.
        part: 0, or of which tar behind the first one's end marker it is: `cat a.tar b.tar` makes one file.
    """

    name: str
    offset: int
    n_bytes: int
    link: str = ""
    part: int = 0


def read_members(file: BinaryIO) -> Iterator[Member]:
    """Yield the files and links of a tar; the place in the file may be changed between two of them.

    Raises:
        tarfile.TarError, OSError, ValueError: it is no tar, or damaged or cut off, so that members could be
            missing.
    """
    part, start = 0, 0
    while True:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it would hold every header
                if member.isreg():
                    yield Member(member.name, member.offset_data, member.size, part=part)
                elif member.islnk() or member.issym():
                    yield Member(member.name, member.offset_data, 0, _target(member), part)
            end = tar.offset
        found = _find_next(file, end)
        if found is None:
            return
        part, start = part + 1, found


def _target(member: tarfile.TarInfo) -> str:
    """Return the name that a link leads to: a symbolic one's starts from its own folder."""
    if member.islnk():
        return member.linkname
    return posixpath.join(posixpath.dirname(member.name), member.linkname)


def _find_next(file: BinaryIO, end: int) -> int | None:
    """Return where another tar begins behind the one whose end marker should be at `end`; None for none.

    A damaged header is the end to the reader, without a word: that is not taken for one here.
    """
    n_bytes = file.seek(0, os.SEEK_END)
    file.seek(end)
    block = file.read(_BLOCK_BYTES)
    if block.count(0) != len(block) or (not block and end < n_bytes):
        raise ValueError(f"damaged at byte {end}")
    if len(block) < _BLOCK_BYTES:
        raise ValueError("it is cut off: its end marker is missing")
    at = end + _BLOCK_BYTES
    while chunk := file.read(_CHUNK_BYTES):
        if chunk.count(0) != len(chunk):
            n_zeros = len(chunk) - len(chunk.lstrip(b"\0"))
            return at + n_zeros - n_zeros % _BLOCK_BYTES
        at += len(chunk)
    return None


class Links:
    """What the links of a tar lead to; reads its headers once more when the first one is met."""

    def __init__(self, path: str) -> None:
        self._path = path

    @cached_property
    def _members(self) -> dict[tuple[int, str], Member]:
        with open_binary(self._path) as file:
            return {(member.part, posixpath.normpath(member.name)): member for member in read_members(file)}

    def place_of(self, member: Member) -> tuple[int, int] | str:
        """Return (offset, length) of a member's content; why there is none for a link that leads nowhere."""
        found: Member | None = member
        for _ in range(_MAX_LINKS):
            if found is None or not found.link:
                break
            found = self._members.get((member.part, posixpath.normpath(found.link)))
        if found is None or found.link:
            return f"a link to {shown_path(member.link)}, which is not in the tar"
        return found.offset, found.n_bytes
