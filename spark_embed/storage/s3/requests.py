"""The URL of an object and the signed headers of a request for it, for who speaks HTTP himself.

The SDK takes 1.5 ms of a core for each small object, of which to sign is 0.06 ms: images that are objects are
read by our own HTTP client, with the SDK's signature. Asks the store for nothing but a bucket's region.
"""

from __future__ import annotations

import re
import threading
from typing import Any, NamedTuple
from urllib.parse import quote

from spark_embed.storage.paths import split_s3
from spark_embed.storage.s3.client import client_for, find_credentials, is_anonymous
from spark_embed.storage.s3.errors import as_s3_error, unsendable
from spark_embed.storage.s3.routes import Route, find_route, s3_endpoint

_UNSIGNED = "UNSIGNED-PAYLOAD"  # as the SDK does over TLS; a GET has no payload anyway


class _Bucket(NamedTuple):
    """Where a bucket is; `url` ends before the key."""

    url: str
    region: str
    route: Route


class ObjectRequests:
    """Requests for objects by their URIs; on any thread."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()
        self._credentials: Any = None

    def knows(self, uri: str) -> bool:
        """Say whether the bucket's place is known; else `url` asks the store."""
        return split_s3(uri)[0] in self._buckets

    def url(self, uri: str) -> str:
        """Return the URL of an object, percent-encoded as it is signed.

        Raises:
            S3Error: no credentials, or the bucket cannot be found.
        """
        bucket, key = split_s3(uri)
        with self._lock:
            if bucket not in self._buckets:
                self._buckets[bucket] = self._find(bucket, uri)
        return self._buckets[bucket].url + quote(key, safe="/~")

    def route(self, uri: str) -> Route:
        """Return how to connect to where the object is; `url` has been called."""
        return self._buckets[split_s3(uri)[0]].route

    def headers(self, uri: str, url: str) -> dict[str, str]:
        """Return what makes a GET of `url`, sent within a few minutes, ours; nothing for an anonymous bucket.

        Raises:
            S3Error: credentials that had to be renewed were not, or cannot be sent.
        """
        bucket = split_s3(uri)[0]
        if is_anonymous(bucket):
            return {}
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        with as_s3_error(uri):
            frozen = self._credentials.get_frozen_credentials()
        request = AWSRequest("GET", url, headers={"X-Amz-Content-SHA256": _UNSIGNED})
        S3SigV4Auth(frozen, "s3", self._buckets[bucket].region).add_auth(request)
        headers = dict(request.headers.items())
        if not all(map(str.isprintable, headers.values())):
            raise unsendable()
        return headers

    def _find(self, bucket: str, uri: str) -> _Bucket:
        client = client_for(bucket)
        region = client.meta.region_name
        with as_s3_error(uri):
            if self._credentials is None and not is_anonymous(bucket):
                self._credentials = find_credentials(bucket)
            if s3_endpoint() is None:
                region = _region_of(client, bucket) or region
            signed = client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "k"})
        base = signed.partition("?")[0].removesuffix("k")
        base = base.replace(f".{client.meta.region_name}.", f".{region}.", 1)
        base = re.sub("//[^/@]*@", "//", base)  # a user and a password of an endpoint, which the SDK ignores
        return _Bucket(base, region, find_route(base))


def _region_of(client: Any, bucket: str) -> str | None:
    """Return the region that the store says, which it does even to who may not read the bucket."""
    from botocore.exceptions import ClientError

    try:
        answer = client.head_bucket(Bucket=bucket)
    except ClientError as exc:
        answer = exc.response
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    found: str | None = headers.get("x-amz-bucket-region")
    return found
