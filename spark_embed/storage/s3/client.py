"""The AWS SDK's client of this process: who we are, where the store is, how patient we are.

Credentials, profile and endpoint are found as boto3 finds them (environment, profile, web identity,
container and instance role; AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL). What flags add travels in the
environment, so that every process of a run agrees: AWS_REGION, SPARK_EMBED_ANONYMOUS,
SPARK_EMBED_ANONYMOUS_BUCKETS.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from spark_embed.storage.s3.errors import WRONG_REGION, S3Error, as_s3_error
from spark_embed.storage.s3.patience import is_impatient, pause_before_retry
from spark_embed.storage.s3.routes import s3_endpoint, s3_region

_MAX_CONNECTIONS = 64
_FILES = ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), ("AWS_CONFIG_FILE", "~/.aws/config")

_lock = threading.Lock()
_sessions: dict[tuple[int, int], Any] = {}
_clients: dict[tuple[tuple[int, int], bool, bool], Any] = {}


class Traffic:
    """What was asked of S3, and what it gave: requests, and bytes that were read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.n_requests = 0
        self.n_bytes = 0
        self._taken = 0, 0

    def take(self) -> dict[str, int]:
        """Return requests and bytes since the last call, as `spark_embed.spark.types.TRAFFIC` names them."""
        with self._lock:
            now = self.n_requests, self.n_bytes
            before, self._taken = self._taken, now
        return {"s3_requests": now[0] - before[0], "s3_bytes": now[1] - before[1]}

    def add(self, s3_requests: int, s3_bytes: int = 0) -> None:
        """Count requests and bytes; from any thread."""
        with self._lock:
            self.n_requests += s3_requests
            self.n_bytes += s3_bytes


traffic = Traffic()
"""Of this process, since it began."""


def client_for(bucket: str) -> Any:
    """Return this process's client, without credentials for an anonymous bucket; safe on any thread.

    Raises:
        S3Error: what the environment says makes none.
    """
    here = _here()
    key = (here, is_anonymous(bucket), is_impatient())
    with _lock:
        if key not in _clients:
            with as_s3_error(f"s3://{bucket}"):
                _clients[key] = _make_client(_session(here), anonymous=key[1], impatient=key[2])
        return _clients[key]


def find_credentials(bucket: str) -> Any:
    """Return the SDK's credentials, which renew themselves; all of this process's share them.

    Raises:
        S3DeniedError: there are none.
    """
    from botocore.exceptions import NoCredentialsError

    with _lock, as_s3_error(f"s3://{bucket}"):
        credentials = _session(_here()).get_credentials()
        if credentials is None:
            raise NoCredentialsError
        return credentials


def _here() -> tuple[int, int]:
    """Return what tells this process, its environment and the person's AWS files from others.

    A client of before a fork shares its connections with the parent; one of other keys (set anew in a
    notebook, or written to a file each hour by a tool) is not who we are any more.
    """
    settings = ((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    return os.getpid(), hash((frozenset(settings), *map(_written_ns, _FILES)))


def _written_ns(file: tuple[str, str]) -> int:
    """Return when one of `_FILES` was written; 0 for none."""
    name, default = file
    try:
        return os.stat(os.path.expanduser(os.environ.get(name, default))).st_mtime_ns
    except OSError:
        return 0


def _session(here: tuple[int, int]) -> Any:
    # Imported where it is needed: a run without S3 does not pay for it.
    import boto3

    if here not in _sessions:
        _sessions[here] = boto3.Session()
    return _sessions[here]


def _make_client(session: Any, *, anonymous: bool, impatient: bool) -> Any:
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(
        region_name=s3_region(),
        retries={"mode": "standard", "total_max_attempts": 1},  # the others are ours
        connect_timeout=4 if impatient else 10,
        read_timeout=10 if impatient else 60,
        max_pool_connections=_MAX_CONNECTIONS,
        s3={
            # A bucket's name before a custom endpoint's host needs a wildcard in the DNS that few have.
            "addressing_style": "path" if s3_endpoint() else "virtual",
            # For the URLs that are signed: the global endpoint redirects, or refuses newer regions.
            "us_east_1_regional_endpoint": "regional",
        },
        # Stores other than AWS know the newer checksums only in part.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        **({"signature_version": UNSIGNED} if anonymous else {}),
    )
    try:
        client = session.client("s3", config=config)
    except ValueError as exc:  # botocore's, for what is no URL
        raise S3Error("AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is no http:// or https:// address") from exc
    if s3_endpoint():
        client.meta.events.register_first("needs-retry.s3", _refuse_other_region)  # before the SDK looks
    client.meta.events.register("needs-retry.s3", pause_before_retry)
    client.meta.events.register("before-send.s3", _count_request)
    return client


def _refuse_other_region(response: Any = None, operation: Any = None, **_: Any) -> None:
    """Let the SDK not go on in the region that the store names: Spark's S3A does so on AWS only."""
    from botocore.exceptions import ClientError

    if response is not None and response[1].get("Error", {}).get("Code") in WRONG_REGION:
        raise ClientError(response[1], operation.name)


def _count_request(**_: Any) -> None:
    traffic.add(1)


def is_anonymous(bucket: str) -> bool:
    """Say whether a bucket is read without credentials (--anonymous, --anonymous_buckets)."""
    if os.environ.get("SPARK_EMBED_ANONYMOUS", "").lower() in ("true", "1", "yes", "on"):
        return True
    names = os.environ.get("SPARK_EMBED_ANONYMOUS_BUCKETS", "")
    return bucket in [name.strip() for name in names.split(",")]
