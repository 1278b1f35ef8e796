"""An image behind a url, by the job's own guarded download: no private address, no file, bounded bytes."""

from __future__ import annotations

from contextlib import closing

from spark_embed.errors import RowError
from spark_embed.inference.fetch.read_ahead import ReadAhead
from spark_embed.inference.fetch.references import DownloadPolicy, FetchPolicy, Reference, make_fetch

ALLOW_PRIVATE = False


def download(url: str, max_bytes: int, timeout_s: float) -> bytes | RowError:
    """Return what is behind an http(s) url, or why it cannot be had; blocks.

    The codes are the job's: `forbidden` for what is no http(s) url or leads to a private address,
    `not_found`, `fetch_failed`, `timeout`, `too_many_bytes`.
    """
    policy = FetchPolicy(
        max_bytes=max_bytes,
        download=DownloadPolicy(
            timeout_s=timeout_s, attempts=1, concurrency=1, allow_private_addresses=ALLOW_PRIVATE
        ),
    )
    with closing(ReadAhead(iter([(Reference(uri=url), None)]), policy)) as ahead:
        (row,) = ahead
    try:
        return row.error or bytes(make_fetch(policy)(row.reference))
    except RowError as exc:
        return exc.without_traceback()
