"""What tests of whole runs on S3 share: data sets in a bucket, and what a run has left in one."""

import io
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from support.s3_store import Store


def upload_tree(store: Store, folder: Path, bucket: str, prefix: str) -> str:
    """Put the files below a folder into a bucket; return the URI that they are below."""
    client = store.client()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder)}")
    return f"s3://{bucket}/{prefix}"


def keys_below(store: Store, bucket: str, prefix: str = "") -> list[str]:
    """Return the keys of all objects below a prefix."""
    pages = store.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


def read_parquet(store: Store, bucket: str, prefix: str) -> pd.DataFrame:
    """Return the rows of the parquet objects at and below a prefix, read by boto3 and pyarrow."""
    client = store.client()
    bodies = [
        client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys_below(store, bucket, prefix)
    ]
    return pd.concat([pq.read_table(io.BytesIO(body)).to_pandas() for body in bodies], ignore_index=True)


def assert_tidy(store: Store, bucket: str, prefix: str) -> None:
    """Nothing is left but what a complete state consists of, and no upload that nobody completed."""
    state = {"run.json", "files.json", "progress.json", "shards.parquet"}
    for key in keys_below(store, bucket, prefix):
        name = key.removeprefix(f"{prefix}/")
        kind, _, rest = name.partition("/")
        assert kind in ("embeddings.parquet", "errors.parquet", "metadata.json", "_spark_embed"), key
        assert kind != "_spark_embed" or rest in state, key
    assert not store.client().list_multipart_uploads(Bucket=bucket).get("Uploads")
