"""What a url, a server's answer or the lack of one means for an image; asks for nothing itself.

No text made here holds a password, a query or a fragment of a url: they may be secrets, and the texts become
a column.
"""

from __future__ import annotations

import re
import socket

import aiohttp
from yarl import URL

from spark_embed.errors import ErrorCode, ImageError
from spark_embed.inference.fetch.addresses import RefusedAddressError
from spark_embed.retry_after import retry_after_s

FINE = frozenset({200, 203})
REDIRECTS = frozenset({301, 302, 303, 307, 308})  # RFC 9110, 15.4
_PASSING = frozenset({408, 425, 429})  # and all of 5xx
_CODES: dict[int, ErrorCode] = {
    401: "forbidden",
    403: "forbidden",
    404: "not_found",
    410: "not_found",
    451: "forbidden",
}

# Such a url is sent as it is: a signed one is valid only to the letter. Others are quoted first.
_QUOTED = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")


class PassingError(Exception):
    """A failure that another attempt may not meet.

    Args:
        error: what the image gets if none is left.
        wait_s: seconds that the server asks to be left alone.
    """

    def __init__(self, error: ImageError, wait_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_s = wait_s


def parse_url(text: str) -> URL:
    """Return the url that `text` is.

    Raises:
        ImageError: it is none.
    """
    try:
        url = URL(text, encoded=_QUOTED.fullmatch(text) is not None)
        if url.host:
            return url
    except ValueError:  # brackets that are no IPv6 address, a port above 65535
        pass
    raise ImageError("fetch_failed", "not a url that can be asked for")


def describe_url(url: URL) -> str:
    """Return the url without what may be secret in it."""
    port = "" if url.is_default_port() else f":{url.port}"
    host = f"[{url.host}]" if ":" in (url.host or "") else url.host
    return f"{url.scheme}://{host}{port}{url.raw_path}"


def next_url(response: aiohttp.ClientResponse) -> URL:
    """Return where a redirect leads.

    Raises:
        ImageError: nowhere, or neither to http nor to https.
    """
    location = response.headers.get("Location", "")
    try:
        target = response.url.join(URL(location, encoded=_QUOTED.fullmatch(location) is not None))
    except ValueError:
        target = URL()
    if not location or not target.host or target.scheme not in ("http", "https"):
        text = f"HTTP {response.status} to where nothing is fetched: {describe_url(response.url)}"
        raise ImageError("fetch_failed", text)
    return target


def explain_status(response: aiohttp.ClientResponse) -> ImageError | PassingError:
    """Return what to raise for a status that is neither fine nor a redirect."""
    status = response.status
    error = ImageError(_CODES.get(status, "fetch_failed"), f"HTTP {status}: {describe_url(response.url)}")
    if status in _PASSING or status >= 500:
        return PassingError(error, retry_after_s(response.headers.get("Retry-After", "")))
    return error


def explain_failure(exc: Exception, url: URL, hint_s: tuple[float, float]) -> ImageError | PassingError:
    """Return what to raise for a failure of the library or the network.

    Args:
        hint_s: the limits for connecting and for reading, in seconds.
    """
    shown = describe_url(url)
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return ImageError("fetch_failed", f"the certificate is not accepted: {shown}")
    cause = exc.os_error if isinstance(exc, aiohttp.ClientConnectorError) else exc
    match cause:
        case RefusedAddressError():
            return ImageError("forbidden", f"not a public address (--allow_private_addresses): {shown}")
        case aiohttp.ConnectionTimeoutError():
            text = f"no connection within {hint_s[0]:g} s (--fetch_connect_timeout_s): {shown}"
            return PassingError(ImageError("timeout", text))
        case TimeoutError():
            text = f"no byte for {hint_s[1]:g} s (--fetch_read_timeout_s): {shown}"
            return PassingError(ImageError("timeout", text))
        case aiohttp.InvalidURL() | ValueError():
            return ImageError("fetch_failed", f"not a url that can be asked for: {shown}")
        case socket.gaierror(errno=socket.EAI_NONAME):
            return ImageError("fetch_failed", f"no host of that name: {shown}")
    # The library's own texts may hold the whole url.
    reason = getattr(cause, "strerror", None) or type(exc).__name__
    return PassingError(ImageError("fetch_failed", f"{reason}: {shown}"))
