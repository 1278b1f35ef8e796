"""The samples of a webdataset tar: where each image's bytes are, and its small text members.

One pass over the headers; the images' bytes are not read. Samples are grouped by key as the webdataset
format says: members whose paths are equal up to the first dot of the file's name belong together.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import pyarrow as pa

from spark_embed.datasets.columns import IMAGE_NAMES
from spark_embed.datasets.detect import IMAGE_SUFFIXES
from spark_embed.datasets.index.rows import ROWS_PER_BATCH, IndexTask, Place, Rows, make_rows
from spark_embed.datasets.index.sidecar import KEY, join_sidecar
from spark_embed.errors import StorageError
from spark_embed.storage import file_version, open_binary, stat

TEXT_SUFFIXES = ("txt", "json", "cls")
"""Members that become columns of text."""

_MAX_TEXT_BYTES = 16 << 20
_BLOCK_BYTES = 512  # POSIX.1-2017 pax, "ustar Interchange Format"


@dataclass
class Sample:
    """The members of one key.

    Attributes:
        images: (offset, length) in the tar by suffix, in the order of the tar.
        texts: by suffix, of `TEXT_SUFFIXES`.
    """

    key: str
    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def read_tar(path: str, image_suffixes: tuple[str, ...]) -> Iterator[Sample]:
    """Yield the samples of a tar in their order.

    Raises:
        StorageError: it is no tar, or it is cut off or damaged, so that samples could be missing.
    """
    sample: Sample | None = None
    try:
        with open_binary(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it would hold every header
                key, suffix = split_name(member.name)
                if not member.isreg() or not key:
                    continue
                if sample is None or sample.key != key or suffix in (*sample.images, *sample.texts):
                    if sample:
                        yield sample
                    sample = Sample(key)
                if f".{suffix}".endswith(image_suffixes):
                    sample.images[suffix] = (member.offset_data, member.size)
                elif suffix in TEXT_SUFFIXES:
                    sample.texts[suffix] = _read_text(tar, member)
            _check_end(path, tar.offset)
    except (tarfile.TarError, OSError, EOFError, ValueError, MemoryError) as exc:
        raise StorageError(f"{path}: cannot be read as a tar: {exc}") from exc
    if sample:
        yield sample


def split_name(path: str) -> tuple[str, str]:
    """Return key and suffix of a member: "a/b.seg.PNG" -> ("a/b", "seg.png"); ("", "") for none."""
    folder, _, name = path.removeprefix("./").rpartition("/")
    stem, dot, suffix = name.partition(".")
    if not stem or not dot:
        return "", ""
    return (f"{folder}/{stem}" if folder else stem), suffix.lower()


def _read_text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    if member.size > _MAX_TEXT_BYTES:
        raise ValueError(f"{member.name} has {member.size} bytes of text, more than {_MAX_TEXT_BYTES}")
    file = tar.extractfile(member)
    return file.read().decode(errors="replace") if file else ""


def _check_end(path: str, offset: int) -> None:
    """Check that a tar ends where the reader stopped: a damaged header is the end to it, without a word."""
    with open_binary(path) as file:
        n_bytes = file.seek(0, os.SEEK_END)
        file.seek(offset)
        block = file.read(_BLOCK_BYTES)
        if block.count(0) != len(block) or (not block and offset < n_bytes):
            raise ValueError(f"damaged at byte {offset}")
        if len(block) < _BLOCK_BYTES:
            raise ValueError("it is cut off: its end marker is missing")


def index_tar(task: IndexTask) -> Iterator[Rows]:
    """Yield the samples of a tar; with an img2dataset parquet beside it, that parquet's rows and columns."""
    path = task.path
    status = stat(path)
    fixed: Place = {"file": path, "version": file_version(status.n_bytes, status.modified_ns, status.etag)}
    samples = read_tar(path, IMAGE_SUFFIXES)
    if task.sidecar is not None:
        places: dict[str, list[Place]] = {}
        for sample in samples:
            if place := _place(sample, fixed):
                places.setdefault(sample.key, []).append(place)
        yield from join_sidecar(os.path.join(task.root, task.sidecar.path), task.file.path, places)
        return
    first = 0
    while batch := list(islice(samples, ROWS_PER_BATCH)):
        columns: dict[str, list[str | None]] = {KEY: [sample.key for sample in batch]}
        columns |= {name: [sample.texts.get(name) for sample in batch] for name in TEXT_SUFFIXES}
        own = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
        yield make_rows(own, task.file.path, first, [_place(sample, fixed) for sample in batch])
        first += len(batch)
    if not first:
        own = pa.table({name: pa.array([], pa.string()) for name in (KEY, *TEXT_SUFFIXES)})
        yield make_rows(own, task.file.path, 0, [])


def _place(sample: Sample, fixed: Place) -> Place | None:
    """Return where a sample's image is; of several the first by IMAGE_NAMES, else by the tar's order."""
    suffix = next((name for name in IMAGE_NAMES if name in sample.images), next(iter(sample.images), None))
    if suffix is None:
        return None
    offset, length = sample.images[suffix]
    return {**fixed, "offset": offset, "length": length}
