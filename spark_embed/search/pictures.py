"""A published row -> the encoded bytes of its picture, read from the data set by the job's own guarded fetch.

Only rows that are published can be asked for, and nothing else is read than the job itself would: below the
run's --input_dir and --allowed_roots, and behind the urls of its rows, at public addresses.
"""

from __future__ import annotations

import threading
from contextlib import closing
from functools import cached_property

from pydantic import ValidationError

from spark_embed.config import Config
from spark_embed.datasets import readable_roots
from spark_embed.datasets.catalogue import Catalogue, read_catalogue
from spark_embed.datasets.detection.detect import FOLDER
from spark_embed.datasets.sample import indexed, resolved
from spark_embed.errors import ConfigError, ImageError, ResumeError, StorageError, one_line
from spark_embed.inference.fetch.read_ahead import ReadAhead
from spark_embed.inference.fetch.references import Reference, make_fetch
from spark_embed.inference.fetch.rows import RowReader
from spark_embed.output.folder import Output
from spark_embed.output.state import read_ledger, read_metadata
from spark_embed.run.binding import make_fetch_policy
from spark_embed.schema import IMAGE, INDEX_ROW, INDEX_SHARD
from spark_embed.search.vectors import read_column, take_rows
from spark_embed.storage import existing_folder, file_version, list_names, spark_uri, stat

_CHANGED = "it has changed since its vector was made"


class Pictures:
    """The pictures of a data set, as its output folder knows them; may be asked from several threads.

    Fast where rows are asked for in their order.
    """

    def __init__(self, root: str) -> None:
        """Look where they are.

        Args:
            root: the output folder of a run, whose data set is where it was.

        Raises:
            ConfigError: no run has finished there, its rows have no images, or its data set is gone.
            ResumeError: a file of its state is broken.
            StorageError: one cannot be read.
        """
        self._output = Output(root)
        summary, ledger = read_metadata(self._output), read_ledger(self._output)
        if summary is None or ledger is None:
            raise ConfigError(f"{root}: no run has finished there, so where its pictures are is not known")
        if not summary.input.image_column:
            raise ConfigError(f"{root}: its rows have no pictures")
        options = {name: value for name, value in summary.config.items() if name in Config.model_fields}
        try:
            config = Config.model_validate(options)
        except ValidationError as exc:
            raise ResumeError(f"{self._output.metadata}: its options are broken: {one_line(exc)}") from exc
        self._root = existing_folder(config.input_dir, f"the data set of {root}: --input_dir")
        self._shards = ledger.shards
        self._layout, self._transport = summary.input.layout, summary.input.transport
        self._column = summary.input.image_column
        self._policy = make_fetch_policy(config, readable_roots(config, self._root), self._column)
        self._fetch = make_fetch(self._policy)
        self._local = threading.local()

    def read(self, shard: str, shard_row: int) -> bytes:
        """Return the encoded bytes of a row's picture.

        Raises:
            ImageError: there is no such row, its picture cannot be had, or is another by now.
        """
        known = self._shards.get(shard)
        if known is None or not any(first <= shard_row < first + n for first, n in known.ranges):
            raise ImageError("not_found", f"no row {shard}#{shard_row} is published")
        try:
            reference = self._reference(shard, shard_row, known.version)
            with closing(ReadAhead(iter([(reference, None)]), self._policy)) as ahead:
                (row,) = ahead
            if row.error:
                raise row.error
            return bytes(self._fetch(row.reference))
        except FileNotFoundError as exc:
            raise ImageError("not_found", f"{shard}#{shard_row}: {one_line(exc)}") from exc
        except (OSError, StorageError) as exc:
            raise ImageError("fetch_failed", f"{shard}#{shard_row}: {one_line(exc)}") from exc

    def _reference(self, shard: str, row: int, version: str) -> Reference:
        if self._transport == "index":
            path = f"{self._output.index}/{self._index_file(shard, version)}"
            found = take_rows(path, [row], [INDEX_SHARD, INDEX_ROW, IMAGE]).to_pylist()
            if not found or (found[0][INDEX_SHARD], found[0][INDEX_ROW]) != (shard, row):
                raise ImageError("not_found", _CHANGED)
            return indexed(found[0][IMAGE], path)
        path = f"{self._root}/{shard}"
        entry = self._catalogue.entries.get(shard) or stat(path)
        if entry.version and entry.version != version:
            raise ImageError("not_found", _CHANGED)
        reference = Reference(
            file=spark_uri(path), row=row, version=file_version(entry.n_bytes, entry.modified_ns)
        )
        reader = self._local.__dict__.setdefault("reader", RowReader(self._column))
        return resolved(reference, reader, "uri" if self._transport == "uri" else "bytes")

    def _index_file(self, shard: str, version: str) -> str:
        """Return the name of the file of the run's index that has a shard."""
        if self._layout == FOLDER:
            return f"{shard}-{version}.parquet"
        entry = self._catalogue.entries.get(shard)
        if entry and not f"{version}+".startswith(f"{entry.version}+"):  # the list's, or a tar's with others
            raise ImageError("not_found", _CHANGED)
        if shard not in self._index_files:
            raise ImageError("not_found", f"{shard} is not in the run's index any more")
        return self._index_files[shard]

    @cached_property
    def _index_files(self) -> dict[str, str]:
        """By shard."""
        names = [name for name in list_names(self._output.index) if name.endswith(".parquet")]
        found = {}
        for name in names:
            first = next(read_column(f"{self._output.index}/{name}", [INDEX_SHARD]), None)
            if first is not None and len(first):
                found[first.column(0)[0].as_py()] = name
        return found

    @cached_property
    def _catalogue(self) -> Catalogue:
        return read_catalogue(self._output.catalogue)
