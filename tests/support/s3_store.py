"""An S3 store as one user of it: its clients, its environment, and what others may do in its buckets."""

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4
from xml.sax.saxutils import escape

import boto3
import pytest
from botocore import UNSIGNED
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError


@cache
def session() -> boto3.session.Session:
    """One for all clients: it reads what there is to know about S3 once, in a tenth of a second."""
    return boto3.session.Session()


class Store:
    """Where it is, and the keys of who uses it; without keys it is nobody.

    Attributes:
        endpoint: `http://host:port`; buckets are paths below it.
    """

    def __init__(self, endpoint: str, access_key: str | None, secret_key: str | None, region: str) -> None:
        self.endpoint = endpoint
        self.access_key = access_key
        self.secret_key = secret_key
        self.region = region

    @cached_property
    def direct(self):
        """A client without more ado: one, because to make one takes longer than what most tests ask for."""
        return self.client()

    def seen_by(self, access_key: str | None, secret_key: str | None) -> "Store":
        """Return the same store for somebody else, who need not exist."""
        return Store(self.endpoint, access_key, secret_key, self.region)

    def seen_by_nobody(self) -> "Store":
        """Return the same store for requests without a signature."""
        return self.seen_by(None, None)

    def seen_through(self, endpoint: str) -> "Store":
        """Return the same store behind another address: a proxy's."""
        return Store(endpoint, self.access_key, self.secret_key, self.region)

    def client(self, **overrides):
        """Return a boto3 client that neither tries again nor looks at the environment.

        Args:
            overrides: for boto3; `config` is merged into ours.
        """
        config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
        if self.access_key is None:
            config = config.merge(Config(signature_version=UNSIGNED))
        config = config.merge(overrides.pop("config", Config()))
        given = {
            "endpoint_url": self.endpoint,
            "region_name": self.region,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
        }
        return session().client("s3", config=config, **{**given, **overrides})

    def environment(self) -> dict[str, str]:
        """Return the variables by which a process finds this store; `set_environment` is for this one."""
        found = {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",  # or who has no keys waits for an address that is not there
            "AWS_CONFIG_FILE": os.devnull,  # the person's own
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        if self.access_key is not None:
            found |= {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        return found

    def set_environment(self, monkeypatch) -> None:
        """Make this the store of this process and of those that it starts; nothing else of AWS stays set."""
        for name in os.environ:
            if name.startswith("AWS_"):
                monkeypatch.delenv(name)
        for name, value in self.environment().items():
            monkeypatch.setenv(name, value)

    def make_bucket(self, name: str | None = None) -> str:
        """Make a bucket of this user, which others may not touch; returns its name."""
        name = name or f"b-{uuid4().hex[:12]}"
        where = {} if self.region == "us-east-1" else {"LocationConstraint": self.region}
        options = {"CreateBucketConfiguration": where} if where else {}
        self.direct.create_bucket(Bucket=name, **options)
        return name

    def fill(self, bucket: str, names: Iterable[str], prefix: str = "") -> None:
        """Put an object at each name below a prefix; its content is the name."""

        def put(name: str) -> None:
            self.direct.put_object(Bucket=bucket, Key=prefix + name, Body=name.encode())

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, names))

    def content(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """Return the objects below a prefix, by what follows it in their keys."""
        pages = self.direct.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {
            key[len(prefix) :]: self.direct.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys
        }

    def uploads(self, bucket: str) -> list[str]:
        """Return the keys of what is being uploaded in parts."""
        found = self.direct.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
        return [upload["Key"] for upload in found]

    def make_user(self, access_key: str, secret_key: str) -> "Store":
        """Make a user with no rights but to buckets that they are given; returns the store as they see it."""
        fields = {"Access": access_key, "Secret": secret_key, "Role": "user"}
        tags = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
        self._administer("create-user", f"<Account>{tags}</Account>")
        return self.seen_by(access_key, secret_key)

    def delete_user(self, access_key: str) -> None:
        """Let the keys of a user be unknown from now on."""
        self._administer(f"delete-user?access={access_key}")

    def _administer(self, what: str, text: str = "") -> None:
        url = f"{self.endpoint}/{what}"
        request = AWSRequest("PATCH", url, data=text.encode())
        S3SigV4Auth(Credentials(self.access_key, self.secret_key), "s3", self.region).add_auth(request)
        try:
            urlopen(Request(url, request.data, dict(request.headers), method="PATCH")).close()
        except HTTPError as exc:
            if exc.code in (403, 404, 405, 501):
                pytest.skip(f"this store makes no users: {exc}")
            raise

    def allow(self, bucket: str, access_key: str, prefix: str = "", action: str = "s3:*") -> None:
        """Let a user (`*`: everybody) do something with the bucket and what is below the prefix."""
        self._add_statement(bucket, "Allow", access_key, action, [bucket, f"{bucket}/{prefix}*"])

    def deny(self, bucket: str, access_key: str, prefix: str = "", action: str = "s3:*") -> None:
        """Forbid a user what is below a prefix, whatever else they may; the root user may all the same."""
        self._add_statement(bucket, "Deny", access_key, action, [f"{bucket}/{prefix}*"])

    def make_public(self, bucket: str) -> None:
        """Let everybody, known or not, read and list a bucket."""
        self._add_statement(bucket, "Allow", "*", "s3:GetObject", [f"{bucket}/*"])
        self._add_statement(bucket, "Allow", "*", "s3:ListBucket", [bucket])

    def _add_statement(self, bucket: str, effect: str, who: str, action: str, what: list[str]) -> None:
        try:
            policy = json.loads(self.direct.get_bucket_policy(Bucket=bucket)["Policy"])
        except ClientError as exc:
            if exc.response["Error"]["Code"] != "NoSuchBucketPolicy":
                raise
            policy = {"Version": "2012-10-17", "Statement": []}
        resources = [f"arn:aws:s3:::{resource}" for resource in what]
        statement = {"Effect": effect, "Principal": {"AWS": who}, "Action": action, "Resource": resources}
        policy["Statement"].append(statement)
        self.direct.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
