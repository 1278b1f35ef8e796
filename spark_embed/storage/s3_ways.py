"""How the SDK connects to a store, for who connects himself: through which proxy, and trusting whom."""

from __future__ import annotations

import os
import ssl
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from spark_embed.storage.s3_errors import S3Error, one_line


def proxy_of(url: str) -> str | None:
    """Return the address of the proxy that the environment names for `url` (HTTPS_PROXY, NO_PROXY)."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


def tls() -> ssl.SSLContext | bool:
    """Return who is trusted: this system's authorities (True), or those that the environment names.

    Raises:
        S3Error: they cannot be read.
    """
    bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE")
    return _trusting(bundle) if bundle else True


@cache
def _trusting(bundle: str) -> ssl.SSLContext:
    try:
        if os.path.isdir(bundle):
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except OSError as exc:
        raise S3Error(f"{bundle}: no certificates that can be read (AWS_CA_BUNDLE): {one_line(exc)}") from exc
