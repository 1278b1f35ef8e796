"""Urls through the feed, and what becomes of their rows; downloads from this machine are allowed."""

from spark_embed.errors import ImageError
from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.fetch.references import DownloadPolicy, FetchPolicy, Reference

from support.fakes import MeanColour
from support.feeds import run_feed

LOCAL = DownloadPolicy(allow_private_addresses=True)
HASTY = DownloadPolicy(
    connect_timeout_s=0.5, read_timeout_s=0.4, timeout_s=1.5, attempts=2, allow_private_addresses=True
)


def rows_of(urls, download=LOCAL, **policy) -> list:
    """What the feed makes of urls (or references): the colour in the vector, or the error."""
    references = [url if isinstance(url, Reference) else Reference(uri=url) for url in urls]
    options = FeedOptions(batch_size=8, n_threads=2, fetch=FetchPolicy(download=download, **policy))
    rows = []
    for chunk in run_feed(references, MeanColour(), options):
        vectors = iter(chunk.columns["embedding"])
        rows += [error or tuple(next(vectors)[:3].astype(int)) for error in chunk.errors["embedding"]]
    return rows


def error_of(url, download=HASTY, **policy) -> ImageError:
    """The error that a url's one row holds; a server has little time."""
    (error,) = rows_of([url], download, **policy)
    assert isinstance(error, ImageError), error
    return error
