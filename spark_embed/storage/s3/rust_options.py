"""The store as libraries on Rust's `object_store` want to be told of it: they open S3 by themselves."""

from __future__ import annotations

from spark_embed.storage.paths import is_s3, split_s3
from spark_embed.storage.s3.client import find_credentials, is_anonymous
from spark_embed.storage.s3.routes import s3_endpoint, s3_region


def rust_options(path: str) -> dict[str, str] | None:
    """Return the options that open a path, with credentials as they are now; None for a local one.

    Raises:
        S3Error: there are no credentials, or no such profile.
    """
    if not is_s3(path):
        return None
    bucket, _ = split_s3(path)
    options = {"AWS_REGION": s3_region()}
    if endpoint := s3_endpoint():
        options |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": str(endpoint.startswith("http:")).lower()}
    if is_anonymous(bucket):
        return options | {"AWS_SKIP_SIGNATURE": "true"}
    key = find_credentials(bucket).get_frozen_credentials()
    options |= {"AWS_ACCESS_KEY_ID": key.access_key, "AWS_SECRET_ACCESS_KEY": key.secret_key}
    return options | ({"AWS_SESSION_TOKEN": key.token} if key.token else {})
