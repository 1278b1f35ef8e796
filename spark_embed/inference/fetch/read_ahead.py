"""References -> rows that are ready to be decoded, in their order, with downloads ahead; knows no images.

Where there are no urls it reads no row before it is asked for it, and starts no thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from spark_embed.errors import ImageError, RowError
from spark_embed.inference.fetch.downloads import Download, Downloads
from spark_embed.inference.fetch.references import FetchPolicy, Reference, url_of

MAX_ROWS_AHEAD = 1024
"""Rows beyond the oldest that is still being downloaded: so much can be done while one that is slow or dead
holds all of them back. Images of 100 KB, as many, fill the memory for downloads."""


Columns = Mapping[str, Any] | None
"""The values of own columns that go to the model with the image; None where it takes none."""


class Row(NamedTuple):
    """A row whose bytes are here or can be read at once.

    Attributes:
        error: why its url gave no bytes.
        n_bytes: that were downloaded for it; they count until `ReadAhead.release`.
        download_s: that connections were busy for it.
    """

    reference: Reference
    columns: Columns = None
    error: RowError | None = None
    n_bytes: int = 0
    download_s: float = 0.0


class ReadAhead:
    """The rows of one task. Close it when the task ends, however it ends.

    Args:
        references: located ones (`make_locate`), each with its row's columns; read by the caller only.
    """

    def __init__(self, references: Iterator[tuple[Reference, Columns]], policy: FetchPolicy) -> None:
        self._references = references
        self._policy = policy
        self._downloads = Downloads(policy)
        self._ahead: deque[tuple[Reference | Download, Columns]] = deque()
        self._n_downloads = 0  # of those ahead
        self._n_inline_bytes = 0  # of those ahead
        self._is_read = False

    @property
    def is_exhausted(self) -> bool:
        """Whether no row is left."""
        return self._is_read and not self._ahead

    @property
    def is_downloading(self) -> bool:
        """Whether the next row is there, but not its bytes."""
        head = self._ahead[0][0] if self._ahead else None
        return isinstance(head, Download) and not head.is_done

    def __iter__(self) -> Iterator[Row]:
        """Yield all rows, each when its bytes are there; they are released when the next is asked for."""
        while not self.is_exhausted:
            self.wait()
            if (row := self.next()) is not None:
                yield row
                self.release(row)

    def next(self) -> Row | None:
        """Return the next row; None if there is none, or its bytes are not there yet.

        Raises:
            Exception: what the references raise.
            RuntimeError: the thread that downloads has died.
        """
        self._fill()
        if not self._ahead or self.is_downloading:
            return None
        head, columns = self._ahead.popleft()
        if isinstance(head, Reference):
            self._n_inline_bytes -= _size(head)
            return Row(head, columns)
        self._n_downloads -= 1
        try:
            data = self._downloads.result(head)
        except ImageError as exc:
            # Not `exc` itself: its traceback would keep the answer and its connection in memory.
            return Row(Reference(), columns, exc.without_traceback(), download_s=head.seconds)
        return Row(Reference(data), columns, None, len(data), head.seconds)

    def wait(self) -> None:
        """Wait until the next row's bytes are there, if it is a row that waits for them."""
        self._fill()
        if self._ahead and isinstance(head := self._ahead[0][0], Download):
            self._downloads.wait(head)

    def release(self, row: Row) -> None:
        """Say that a row's bytes are not held any more."""
        if row.n_bytes:
            self._downloads.give_back(row.n_bytes)

    def close(self) -> None:
        """End the downloads that are still running."""
        self._downloads.close()

    def _fill(self) -> None:
        """Read references: one, or as many as keep the downloads going."""
        while not self._is_read and (not self._ahead or self._reads_on()):
            item = next(self._references, None)
            if item is None:
                self._is_read = True
                return
            reference, columns = item
            if (url := url_of(reference, self._policy.roots)) is not None:
                self._ahead.append((self._downloads.add(url), columns))
                self._n_downloads += 1
            else:
                self._ahead.append(item)
                self._n_inline_bytes += _size(reference)

    def _reads_on(self) -> bool:
        return (
            self._n_downloads > 0
            and len(self._ahead) < MAX_ROWS_AHEAD
            and self._n_inline_bytes < self._policy.download.memory_bytes
        )


def _size(reference: Reference) -> int:
    return 0 if reference.inline is None else len(reference.inline)
