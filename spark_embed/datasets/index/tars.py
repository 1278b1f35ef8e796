"""The samples of a webdataset tar: where each image's bytes are, and its small text members.

One pass over the headers; the images' bytes are not read. Samples are grouped by key as the webdataset
format says: members whose paths are equal up to the first dot of the file's name belong together; so do those
that are not next to each other, as long as no image is left out by that.
"""

from __future__ import annotations

import os
import tarfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import BinaryIO

import pyarrow as pa

from spark_embed.datasets.columns import IMAGE_NAMES
from spark_embed.datasets.detection.not_used import UNREAD_IMAGES, NotUsed, is_companion
from spark_embed.datasets.detection.seen import is_image
from spark_embed.datasets.index.rows import ROWS_PER_BATCH, IndexTask, Place, Rows, make_rows
from spark_embed.datasets.index.sidecar import KEY, join_sidecar
from spark_embed.datasets.index.tar_members import Links, read_members
from spark_embed.datasets.index.unpack import is_compressed, unpack
from spark_embed.errors import StorageError
from spark_embed.storage import exists, file_version, open_binary, shown_path, stat
from spark_embed.storage.lfs import LFS_POINTER, is_lfs_pointer

TEXT_SUFFIXES = ("txt", "json", "cls")
"""Members that become columns of text."""

_MAX_TEXT_BYTES = 16 << 20
_HEAD_BYTES = 64

# How far apart the members of a sample may be.
_MAX_WAITING = 10_000
_MAX_WAITING_CHARS = 64 << 20

_OTHER_IMAGE = "images in tars whose key has another"
_UNREAD_IMAGE = "{} in tars"
_WITHOUT_KEY = "in tars without a suffix"


@dataclass(slots=True)
class Sample:
    """The members of one key.

    Attributes:
        images: (offset, length) in the tar by suffix, in the order of the tar; or why it is not there.
        texts: by suffix, of `TEXT_SUFFIXES`.
    """

    key: str
    images: dict[str, tuple[int, int] | str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def has(self, suffix: str) -> bool:
        """Say whether a member of that suffix is there."""
        return suffix in self.images or suffix in self.texts


class _Waiting:
    """The last samples of a tar, which members may still join, in the order of their first ones."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()
        self._by_key: dict[str, Sample] = {}
        self._current: Sample | None = None
        self._gone: dict[bool, set[int]] = {True: set(), False: set()}
        self._n_chars = 0

    def sample_of(self, key: str, suffix: str, is_image: bool) -> Sample:
        """Return the sample that a member belongs to: one that is there and lacks it, else a new one."""
        current = self._current
        sample = current if current and current.key == key else self._by_key.get(key)
        if sample is None or sample.has(suffix) or (is_image and sample is not current and sample.images):
            sample = self._by_key[key] = Sample(key)
            self._samples.append(sample)
        self._current = sample
        return sample

    def add_text(self, sample: Sample, suffix: str, text: str) -> None:
        """Give a sample a text."""
        sample.texts[suffix] = text
        self._n_chars += len(text)

    def taken(self, is_end: bool = False) -> Iterator[Sample]:
        """Take samples out: those that have waited for long enough, at the end all."""
        while self._samples and (is_end or self._is_full()):
            sample = self._samples.popleft()
            has_image = bool(sample.images)
            key = hash(sample.key)
            if key in self._gone[not has_image] or (not has_image and key in self._gone[False]):
                raise ValueError(
                    f"the members of {sample.key!r} are too far apart; make the tar anew, sorted by name"
                )
            if not is_end:
                self._gone[has_image].add(key)
                self._n_chars -= sum(map(len, sample.texts.values()))
                if self._by_key.get(sample.key) is sample:
                    del self._by_key[sample.key]
            yield sample

    def _is_full(self) -> bool:
        is_full = len(self._samples) > _MAX_WAITING or self._n_chars > _MAX_WAITING_CHARS
        return is_full and self._samples[0] is not self._current


def read_tar(path: str, not_used: NotUsed) -> Iterator[Sample]:
    """Yield the samples of a tar in the order of their first members.

    Args:
        path: of the tar.
        not_used: counts members that are none, but look like it.

    Raises:
        StorageError: it is no tar, or it is cut off or damaged, so that samples could be missing.
    """
    waiting, links, part = _Waiting(), Links(path), 0
    try:
        with open_binary(path) as file:
            for member in read_members(file):
                if member.part != part:  # its keys are others
                    yield from waiting.taken(is_end=True)
                    waiting, part = _Waiting(), member.part
                name = shown_path(member.name)
                key, suffix = split_name(name)
                if not key:
                    _count_without_key(name, not_used)
                    continue
                is_picture = is_image(f".{suffix}")
                if member.link and not is_picture and suffix not in TEXT_SUFFIXES:
                    continue
                sample = waiting.sample_of(key, suffix, is_picture)
                place = links.place_of(member)
                if is_picture:
                    sample.images[suffix] = place
                elif suffix in TEXT_SUFFIXES and not isinstance(place, str):
                    waiting.add_text(sample, suffix, _read_text(file, name, *place))
                elif kind := next((one for one in UNREAD_IMAGES if f".{suffix}".endswith(one)), None):
                    not_used.add(_UNREAD_IMAGE.format(kind), name)
                yield from waiting.taken()
            yield from waiting.taken(is_end=True)
    except (tarfile.TarError, OSError, EOFError, ValueError, MemoryError) as exc:
        raise StorageError(f"{path}: cannot be read as a tar: {exc}") from exc


def split_name(path: str) -> tuple[str, str]:
    """Return key and suffix of a member: "a/b.seg.PNG" -> ("a/b", "seg.png"); ("", "") for none."""
    folder, _, name = path.removeprefix("./").rpartition("/")
    stem, dot, suffix = name.partition(".")
    if not stem or not dot:
        return "", ""
    return (f"{folder}/{stem}" if folder else stem), suffix.lower()


def _count_without_key(name: str, not_used: NotUsed) -> None:
    if not is_companion(name):
        not_used.add(_WITHOUT_KEY, name)


def _read_text(file: BinaryIO, name: str, offset: int, n_bytes: int) -> str:
    if n_bytes > _MAX_TEXT_BYTES:
        raise ValueError(f"{name} has {n_bytes} bytes of text, more than {_MAX_TEXT_BYTES}")
    file.seek(offset)
    data = file.read(n_bytes)
    if len(data) < n_bytes:
        raise EOFError("unexpected end of data")
    return data.decode(errors="replace")


def index_tar(task: IndexTask, not_used: NotUsed) -> Iterator[Rows]:
    """Yield the samples of a tar; with an img2dataset parquet beside it, that parquet's rows and columns."""
    path = _plain_tar(task)
    status = stat(path)
    version = file_version(status.n_bytes, status.modified_ns, status.etag)
    # A name alone starts from the index, which may be moved with its output folder.
    file = path if path == task.path else os.path.basename(path)
    fixed: Place = {"file": os.fsencode(file), "version": version}
    in_tar = NotUsed()
    samples = _counted(read_tar(path, in_tar), in_tar)
    if task.sidecar is not None:
        places: dict[str, list[Place]] = {}
        for sample in samples:
            if place := _place(sample, fixed):
                places.setdefault(sample.key, []).append(place)
        yield from join_sidecar(os.path.join(task.root, task.sidecar.path), task.name, places)
    else:
        yield from _rows(samples, task.name, fixed)
    for kind, (number, example) in in_tar.kinds.items():
        not_used.add(kind, f"{example} in {task.name}", number)


def _plain_tar(task: IndexTask) -> str:
    """Return where the tar is without compression."""
    try:
        with open_binary(task.path) as file:
            head = file.read(_HEAD_BYTES)
    except OSError as exc:
        raise StorageError(f"{task.path}: cannot be read: {exc}") from exc
    if is_lfs_pointer(head):
        raise StorageError(f"{task.path}: {LFS_POINTER}")
    if not is_compressed(head):
        return task.path
    if not exists(task.unpacked):
        unpack(task.path, task.unpacked)
    return task.unpacked


def _rows(samples: Iterator[Sample], shard: str, fixed: Place) -> Iterator[Rows]:
    first = 0
    while (batch := list(islice(samples, ROWS_PER_BATCH))) or not first:
        columns: dict[str, list[str | None]] = {KEY: [sample.key for sample in batch]}
        columns |= {name: [sample.texts.get(name) for sample in batch] for name in TEXT_SUFFIXES}
        own = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
        yield make_rows(own, shard, first, [_place(sample, fixed) for sample in batch])
        if not batch:
            return
        first += len(batch)


def _counted(samples: Iterator[Sample], not_used: NotUsed) -> Iterator[Sample]:
    """Yield samples, and count the images that are not the one of theirs."""
    for sample in samples:
        if len(sample.images) > 1:
            used = _image_of(sample)
            unused = [f"{sample.key}.{suffix}" for suffix in sample.images if suffix != used]
            not_used.add(_OTHER_IMAGE, unused[0], len(unused))
        yield sample


def _image_of(sample: Sample) -> str | None:
    """Return which of a sample's images counts: the first of IMAGE_NAMES, else of the tar's order."""
    return next((name for name in IMAGE_NAMES if name in sample.images), next(iter(sample.images), None))


def _place(sample: Sample, fixed: Place) -> Place | None:
    """Return where a sample's image is."""
    suffix = _image_of(sample)
    if suffix is None:
        return None
    place = sample.images[suffix]
    if isinstance(place, str):
        return {"missing": place}
    return {**fixed, "offset": place[0], "length": place[1]}
