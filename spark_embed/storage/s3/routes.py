"""How the SDK connects to a store, for who connects himself: where it is, by which proxy, whom it trusts."""

from __future__ import annotations

import os
import ssl
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from spark_embed.storage.s3.errors import S3Error, as_s3_error, without_password

DEFAULT_REGION = "us-east-1"


class Route(NamedTuple):
    """How to connect: by the proxy at an address, and with whose certificates (True: this system's)."""

    proxy: str | None
    tls: ssl.SSLContext | bool


def s3_endpoint() -> str | None:
    """Return the endpoint of a store that is not AWS: of the environment, or of the profile in ~/.aws/config.

    Raises:
        S3Error: there is no such profile, or the file cannot be read.
    """
    from botocore.configprovider import ConfiguredEndpointProvider

    session = _sdk_session()
    with as_s3_error("S3"):
        if session.get_config_variable("ignore_configured_endpoint_urls"):
            return None
        files = session.full_config, session.get_scoped_config()
        found: str | None = ConfiguredEndpointProvider(*files, "s3").provide()
        return found


def s3_region() -> str:
    """Return the region of the environment, else that of the profile, else the one that S3 began with.

    Raises:
        S3Error: there is no such profile, or the file cannot be read.
    """
    named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    with as_s3_error("S3"):
        return named or _sdk_session().get_config_variable("region") or DEFAULT_REGION


def find_route(url: str) -> Route:
    """Return how to connect to `url`: by HTTPS_PROXY and NO_PROXY, AWS_CA_BUNDLE and the profile's ca_bundle.

    Raises:
        S3Error: the certificates cannot be read.
    """
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    bundle = _sdk_session().get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    return Route(proxy, _trusting(bundle) if bundle else True)


def _sdk_session() -> Any:
    """Return the SDK's view of the environment and the person's AWS files, as they are now."""
    # Imported where it is needed: a run without S3 does not pay for it.
    from botocore.session import Session

    return Session()


@cache
def _trusting(bundle: str) -> ssl.SSLContext:
    try:
        if os.path.isdir(bundle):
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except OSError as exc:
        raise S3Error(
            f"{bundle}: no certificates that can be read (AWS_CA_BUNDLE): {without_password(exc)}"
        ) from exc
