"""The objects below a prefix, in the order of their keys, page by page; several folders at once if it helps.

A page is a request of some 0.1 s and holds 1,000 keys. Folders that hold hundreds of objects are listed
beside one another, a few pages ahead of who reads; small ones are not: each would cost a request of its own.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from spark_embed.storage.s3.client import client_for
from spark_embed.storage.s3.errors import as_s3_error

_FOLDERS_AT_ONCE = 8
_PAGES_AHEAD = 2
_MAX_FOLDERS_IN_A_PAGE = 4
"""Of as many folders, or fewer, the first 1,000 keys must be for them to count as large."""

Item = dict[str, Any]


def list_objects(bucket: str, prefix: str) -> Iterator[Item]:
    """Yield the objects below a prefix, as the store describes them.

    Raises:
        S3Error: they cannot be listed.
    """
    first = _page(bucket, prefix)
    items = first.get("Contents", [])
    if not first.get("IsTruncated"):
        yield from items
        return
    if len({item["Key"][len(prefix) :].partition("/")[0] for item in items}) > _MAX_FOLDERS_IN_A_PAGE:
        yield from items
        yield from _following(bucket, prefix, first)
        return
    top = _page(bucket, prefix, Delimiter="/")
    if top.get("IsTruncated") or len(top.get("CommonPrefixes", ())) < 2:
        yield from items
        yield from _following(bucket, prefix, first)
        return
    yield from _in_parallel(bucket, top)


def list_top(bucket: str, prefix: str) -> Iterator[Item]:
    """Yield the objects right below a prefix, and the folders as {"Prefix": ...}."""
    page = _page(bucket, prefix, Delimiter="/")
    while True:
        yield from page.get("Contents", ())
        yield from page.get("CommonPrefixes", ())
        if not page.get("IsTruncated"):
            return
        page = _page(bucket, prefix, Delimiter="/", ContinuationToken=page["NextContinuationToken"])


def _page(bucket: str, prefix: str, **options: str) -> dict[str, Any]:
    with as_s3_error(f"s3://{bucket}/{prefix}"):
        answer: dict[str, Any] = client_for(bucket).list_objects_v2(Bucket=bucket, Prefix=prefix, **options)
        return answer


def _following(bucket: str, prefix: str, page: dict[str, Any]) -> Iterator[Item]:
    """Yield the objects of the pages after this one."""
    while page.get("IsTruncated"):
        page = _page(bucket, prefix, ContinuationToken=page["NextContinuationToken"])
        yield from page.get("Contents", ())


def _in_parallel(bucket: str, top: dict[str, Any]) -> Iterator[Item]:
    """Yield what is right below a prefix, and its folders' objects in their places."""
    places = [(item["Key"], item) for item in top.get("Contents", ())]
    places += [(item["Prefix"], None) for item in top["CommonPrefixes"]]
    places.sort(key=lambda place: place[0].encode())
    waiting = deque(key for key, item in places if item is None)
    folders: deque[_Folder] = deque()
    try:
        for _, item in places:
            while waiting and len(folders) < _FOLDERS_AT_ONCE:
                folders.append(_Folder(bucket, waiting.popleft()))
            if item is not None:
                yield item
            else:
                yield from folders[0]
                folders.popleft()
    finally:
        for folder in folders:
            folder.stop()


class _Folder:
    """The objects of one folder, listed by a thread of its own a few pages ahead."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket, self._prefix = bucket, prefix
        self._pages: queue.Queue[list[Item] | BaseException | None] = queue.Queue(_PAGES_AHEAD)
        self._stopped = threading.Event()
        threading.Thread(target=self._list, name="s3 listing", daemon=True).start()

    def __iter__(self) -> Iterator[Item]:
        while (page := self._pages.get()) is not None:
            if isinstance(page, BaseException):
                raise page
            yield from page

    def stop(self) -> None:
        """Let the thread end."""
        self._stopped.set()
        with suppress(queue.Empty):
            while True:
                self._pages.get_nowait()

    def _list(self) -> None:
        try:
            page = _page(self._bucket, self._prefix)
            self._put(page.get("Contents", []))
            while page.get("IsTruncated") and not self._stopped.is_set():
                page = _page(self._bucket, self._prefix, ContinuationToken=page["NextContinuationToken"])
                self._put(page.get("Contents", []))
            self._put(None)
        except BaseException as exc:  # noqa: BLE001  raised again where the page is asked for
            self._put(exc)

    def _put(self, page: list[Item] | BaseException | None) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._pages.put(page, timeout=0.5)
                return
