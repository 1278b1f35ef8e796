"""The AWS SDK's client of this process: who we are, where the store is, how patient we are.

Credentials, profile and endpoint are found as boto3 finds them (environment, profile, web identity,
container and instance role; AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL). What flags add travels in the
environment, so that every process of a run agrees: AWS_REGION, SPARK_EMBED_ANONYMOUS,
SPARK_EMBED_ANONYMOUS_BUCKETS.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spark_embed.storage.s3_errors import explained

_DEFAULT_REGION = "us-east-1"

# "standard" waits min(random * 2^n, 20) s before attempt n: 12 bridge a store that is away for half a minute,
# and end after about two minutes. The first look at a store, before anything has been done, gives up sooner.
PATIENT_ATTEMPTS = 12
_IMPATIENT_ATTEMPTS = 4
_MAX_CONNECTIONS = 64

_lock = threading.Lock()
_clients: dict[tuple[int, bool, bool], Any] = {}
_is_patient = True


class Traffic:
    """What this process has asked the store for, and got, since it began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.n_requests = 0
        self.n_bytes = 0
        self._taken = 0, 0

    def take(self) -> dict[str, int]:
        """Return requests and bytes since the last call, as `spark_embed.schema.TRAFFIC` names them."""
        with self._lock:
            now = self.n_requests, self.n_bytes
            before, self._taken = self._taken, now
        return {"s3_requests": now[0] - before[0], "s3_bytes": now[1] - before[1]}

    def add(self, n_requests: int, n_bytes: int = 0) -> None:
        """Count requests and bytes; from any thread."""
        with self._lock:
            self.n_requests += n_requests
            self.n_bytes += n_bytes


traffic = Traffic()


def client_for(bucket: str) -> Any:
    """Return this process's client, without credentials for an anonymous bucket; safe on any thread."""
    # A client of before a fork shares its connections with the parent.
    key = (os.getpid(), is_anonymous(bucket), _is_patient)
    with _lock:
        if key not in _clients:
            _clients[key] = _make_client(anonymous=key[1], patient=key[2])
        return _clients[key]


@contextmanager
def impatient() -> Iterator[None]:
    """Give up sooner inside a `with` block: a wrong endpoint should not take minutes to be told."""
    global _is_patient
    _is_patient = False
    try:
        yield
    finally:
        _is_patient = True


def _make_client(*, anonymous: bool, patient: bool) -> Any:
    # Imported where it is needed: a run without S3 does not pay for it.
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(
        region_name=region(),
        retries={"mode": "standard", "max_attempts": PATIENT_ATTEMPTS if patient else _IMPATIENT_ATTEMPTS},
        connect_timeout=10 if patient else 4,
        read_timeout=60 if patient else 10,
        max_pool_connections=_MAX_CONNECTIONS,
        # A bucket's name before a custom endpoint's host needs a wildcard in the DNS that few have.
        s3={"addressing_style": "path" if endpoint() else "auto"},
        # Stores other than AWS know the newer checksums only in part.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        **({"signature_version": UNSIGNED} if anonymous else {}),
    )
    with explained(""):
        client = boto3.Session().client("s3", config=config)
    client.meta.events.register("before-send.s3", _count_request)
    return client


def _count_request(**_: Any) -> None:
    traffic.add(1)


def endpoint() -> str | None:
    """Return the endpoint of a store that is not AWS, as boto3 takes it from the environment."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def region() -> str | None:
    """Return the region that is named; None: the profile's. A store that is not AWS wants one, too."""
    named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return named or (_DEFAULT_REGION if endpoint() else None)


def is_anonymous(bucket: str) -> bool:
    """Say whether a bucket is read without credentials (--anonymous, --anonymous_buckets)."""
    if os.environ.get("SPARK_EMBED_ANONYMOUS", "").lower() in ("true", "1", "yes", "on"):
        return True
    names = os.environ.get("SPARK_EMBED_ANONYMOUS_BUCKETS", "")
    return bucket in [name.strip() for name in names.split(",")]
